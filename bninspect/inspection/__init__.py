"""What bninspect can do: one file per capability, named as its command."""

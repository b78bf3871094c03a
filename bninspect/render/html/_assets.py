"""What a page is made of beside its report: the template, our style and script, and plotly's script."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bninspect.errors import BNInspectError
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.render.html._section import Section
    from bninspect.render.html._together import Together

_HERE = Path(__file__).parent
_LONGEST = 2000  # characters of a text
_SCRIPT = Path("package_data", "plotly.min.js")


class Assets(NamedTuple):
    """Texts that every page has."""

    template: Any
    style: str
    script: str
    plotly: str

    def fill(self, sections: Sequence[Section], labels: Sequence[str], together: Together | None) -> str:
        """The whole page; only the two scripts that it holds may run, and nothing may be fetched."""
        scripts = " ".join(f"'sha256-{_digest(text)}'" for text in (self.plotly, self.script))
        data = {
            "pictures": [picture.data() for picture in together.pictures] if together else [],
            "sections": [section.data() for section in sections],
        }
        text: str = self.template.render(
            policy=f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; "
            "base-uri 'none'; form-action 'none'",
            sections=list(zip(labels, sections, strict=True)),
            together=together,
            style=self.style,
            script=self.script,
            plotly=self.plotly,
            data=_embedded(data),
        )
        return text


def load() -> Assets:
    """Read all of them.

    Raises:
        BNInspectError: a package of the extra is missing.
    """
    script = plotly()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
    )
    return Assets(environment.get_template("page.html.j2"), _text("page.css"), _text("page.js"), _read(script))


def plotly() -> Path:
    """Where its script is installed; it is not imported, which takes longer than the page.

    Raises:
        BNInspectError: a package of the extra is missing.
    """
    found = importlib.util.find_spec("plotly")
    script = Path(found.origin).parent / _SCRIPT if found and found.origin else None
    if script is None or not script.is_file() or importlib.util.find_spec("jinja2") is None:
        raise BNInspectError("a page needs plotly and jinja2, which are not installed: pip install 'bninspect[html]'")
    return script


def _text(name: str) -> str:
    return _read(_HERE / name)


def _read(path: Path) -> str:
    """As a browser reads it: it hashes a script after line ends have become one character."""
    return path.read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """Names on the page are on one line, and turn no text around; what is marked as safe stays."""
    return printable(value, _LONGEST) if type(value) is str else value


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(data: Any) -> str:
    """JSON that ends no script element, whatever the names in it are."""
    text = json.dumps(_finite(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _finite(data: Any) -> Any:
    """The same, with null for NaN and infinity, which JSON has not."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, (list, tuple)) else data

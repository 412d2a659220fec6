"""What a page says: its text, its values, and everything in it that could act or load."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input"}
LOADING = {"src", "href", "srcset", "data", "action", "poster", "formaction", "xlink:href"}


@dataclass
class Parsed(HTMLParser):
    """A page in parts. `values` are the numbers of `<data>`, by id where there is one."""

    text: str = ""
    values: list[str] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    by_id: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)
    script: str = ""
    _open: list[tuple[str, str | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.urls += [value for name, value in given.items() if name in LOADING]
        self.handlers += [name for name in given if name.startswith("on")]
        if tag == "data":
            self.values.append(given["value"])
            if given.get("class") == "rate":
                self.rates[given["data-site"]] = float(given["value"])
        if tag not in VOID:
            self._open.append((tag, given.get("id")))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self._open]
        if "script" in tags:
            self.script += data
        elif "style" not in tags:
            self.text += data
            for _, name in self._open:
                if name:
                    self.by_id[name] = self.by_id.get(name, "") + data


def parse(page: str) -> Parsed:
    found = Parsed()
    found.feed(page)
    found.close()
    return found

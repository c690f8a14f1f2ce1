"""A page of Markdown."""

__all__ = ["page", "table"]


def table(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    """A table; all columns but the first are numbers, to the right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def page(*parts: str) -> str:
    """Paragraphs, headings and tables, with a blank line between them."""
    return "\n\n".join(part for part in parts if part) + "\n"

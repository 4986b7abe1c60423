"""Which of the fonts that are here have these characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

FIRST = "DejaVu Sans"  # comes with matplotlib
JAPANESE = (
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "Source Han Sans",
    "Hiragino Sans",
    "Yu Gothic",
    "IPAexGothic",
    "IPAGothic",
    "TakaoGothic",
)
CHINESE = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "PingFang SC",
    "PingFang HK",
    "Microsoft YaHei",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
)
OTHERS = ("Noto Sans Arabic", "Noto Emoji", "Symbola", "Apple SD Gothic Neo", "Arial Unicode MS")
LAST = ("Unifont",)  # has nearly all, in dots
KANA = re.compile("[\u3040-\u30ff\uff66-\uff9f]")
# Packages of Debian, and the characters that they are for.
PACKAGES = {
    "fonts-noto-cjk": "[\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    "\uff00-\uffef\U00020000-\U0003ffff]",
    "fonts-symbola": "[\u2190-\u2bff\U0001f000-\U0001faff]",
    "fonts-unifont": "[\ue000-\uf8ff\U000e0000-\U0010ffff]",
    "fonts-noto-core": ".",
}


def fonts_for(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """The fonts to draw texts with, each for what those before it lack, and the characters that no
    font has. Chinese is drawn as in China unless there are kana among it."""
    from matplotlib.font_manager import findfont, get_font

    characters = "".join(texts).replace("\n", "")
    missing = set(characters)
    fonts: list[str] = []
    for name in _installed(characters):
        here = {one for one in missing if ord(one) in get_font(findfont(name)).get_charmap()}
        if here or not fonts:
            fonts.append(name)
            missing -= here
        if not missing:
            break
    return fonts, missing


def _installed(characters: str) -> Iterator[str]:
    """Names of fonts, those that suit these characters first."""
    from matplotlib.font_manager import fontManager

    of_kanji = JAPANESE + CHINESE if KANA.search(characters) else CHINESE + JAPANESE
    preferred = (FIRST, *of_kanji, *OTHERS)
    for is_new in (False, True):
        if is_new:
            _take_in_new_fonts()
        known = {font.name for font in fontManager.ttflist}
        of_scripts = sorted(name for name in known if name.startswith("Noto Sans "))
        yield from (name for name in (*preferred, *of_scripts, *LAST) if name in known)


def _take_in_new_fonts() -> None:
    """Tell matplotlib of fonts that were installed after it wrote its list of them."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {font.fname for font in fontManager.ttflist}
    for path in set(findSystemFonts()) - known:
        try:
            fontManager.addfont(path)
        except (OSError, RuntimeError, ValueError):  # a font that matplotlib cannot read
            continue


def of_missing(characters: set[str]) -> str:
    """What to do about characters that no font has."""
    packages = {
        next(name for name, has in PACKAGES.items() if re.match(has, one, re.DOTALL))
        for one in characters
    }
    first = ", ".join(f"U+{ord(one):04X}" for one in sorted(characters)[:3])
    more = ", ..." if len(characters) > 3 else ""
    return (
        f"no font here has all the characters: {first}{more} are missing; install Debian's "
        f"{' and '.join(sorted(packages))}, or have a page made, which the browser finds fonts "
        "for: --attention page.html"
    )

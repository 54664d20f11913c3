"""FLUIDs: Flux's 64-bit job ids, and every way in which Flux spells one (RFC 19).

A FLUID holds 40 bits of milliseconds, 14 bits of generator id and 10 bits of sequence number. It exceeds the
2^53 that JavaScript's numbers can hold, so people and browsers use the F58 spelling, ``ƒ2oUvBnNfh``.
"""

from __future__ import annotations

import functools
import re
import time

import mnemonicode

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGIT = {char: value for value, char in enumerate(_ALPHABET)}
#: RFC 19's digits of base 576.
_EMOJI = (
    "😃😄😁😆😅😂😉😊😍😘😚😋😜😝😏😒😌😔😪😷😵😲😳😨😰😥😢😭😱😖😣😞😓😩😫😤😡😠👿💀💩👹👺👻👽👾😺😸"
    "😹😻😼😽🙀😿😾🙈🙉🙊💌💘💝💖💗💓💞💕💟💔💛💚💙💜💋💯💢💥💫💦💨💬💤👋👌👈👉👆👇👍👎👊👏🙌👐🙏💅💪"
    "👂👃👀👅👄👶👦👧👱👨👩👴👵🙍🙎🙅🙆💁🙋🙇👮💂👷👸👳👲👰👼🎅💆💇🚶🏃💃👯🏂🏄🏊🛀👫💏💑👪👤👣🐵🐒🐶"
    "🐩🐺🐱🐯🐴🐎🐮🐷🐗🐽🐑🐫🐘🐭🐹🐰🐻🐨🐼🐾🐔🐣🐤🐥🐦🐧🐸🐢🐍🐲🐳🐬🐟🐠🐡🐙🐚🐌🐛🐜🐝🐞💐🌸💮🌹🌺🌻"
    "🌼🌷🌱🌴🌵🌾🌿🍀🍁🍂🍃🍄🍇🍈🍉🍊🍌🍍🍎🍏🍑🍒🍓🍅🍆🌽🌰🍞🍖🍗🍔🍟🍕🍳🍲🍱🍘🍙🍚🍛🍜🍝🍠🍢🍣🍤🍥🍡"
    "🍦🍧🍨🍩🍪🎂🍰🍫🍬🍭🍮🍯🍵🍶🍷🍸🍹🍺🍻🍴🔪🌏🗾🌋🗻🏠🏡🏢🏣🏥🏦🏨🏩🏪🏫🏬🏭🏯🏰💒🗼🗽🌁🌃🌄🌅🌆🌇"
    "🌉🎠🎡🎢💈🎪🚃🚄🚅🚇🚉🚌🚑🚒🚓🚕🚗🚙🚚🚲🚏🚨🚥🚧🚤🚢💺🚀🕛🕐🕑🕒🕓🕔🕕🕖🕗🕘🕙🕚🌑🌓🌔🌕🌙🌛🌟🌠"
    "🌌🌀🌈🌂🔥💧🌊🎃🎄🎆🎇🎈🎉🎊🎋🎍🎎🎏🎐🎑🎀🎁🎫🏆🏀🏈🎾🎳🎣🎽🎿🎯🔫🎱🔮🎮🎰🎲🃏🀄🎴🎭🎨👓👔👕👖👗"
    "👘👙👚👛👜👝🎒👞👟👠👡👢👑👒🎩🎓💄💍💎🔊📢📣🔔🎼🎵🎶🎤🎧📻🎷🎸🎹🎺🎻📱📲📞📟📠🔋🔌💻💽💾💿📀🎥🎬"
    "📺📷📹📼🔍🔎💡🔦🏮📔📕📖📗📘📙📚📓📒📃📜📄📰📑🔖💰💴💵💸💳💹📧📨📩📤📥📦📫📪📮📝💼📁📂📅📆📇📈📉"
    "📊📋📌📍📎📏📐🔒🔓🔏🔐🔑🔨💣🔧🔩🔗📡💉💊🚪🚽🚬🗿🏧🚹🚺🚻🚼🚾🚫🚭🔞🔃🔙🔚🔛🔜🔝🔯🔼🔽🎦📶📳📴💱💲"
    "🔱📛🔰🔟🔠🔡🔢🔣🔤🆎🆑🆒🆓🆔🆕🆖🆗🆘🆙🆚🈁🈶🈯🉐🈹🈚🈲🉑🈸🈴🈳🈺🈵🔴🔵🔶🔷🔸🔹🔺🔻💠🔘🔳🔲🏁🚩🎌"
)
_EMOJI_DIGIT = {char: value for value, char in enumerate(_EMOJI)}
_LONGEST = 200  # characters; words have fewer than 100
_F58 = re.compile(rf"[ƒf]([{_ALPHABET}]{{1,12}})")
_DOTHEX = re.compile(r"([0-9a-fA-F]{1,4})\.([0-9a-fA-F]{1,4})\.([0-9a-fA-F]{1,4})\.([0-9a-fA-F]{1,4})")
_WORDS = re.compile(r"[a-z]+(?:-+[a-z]+){1,8}")

MAX = 2**64 - 1


@functools.lru_cache(maxsize=4096)
def f58(fluid: int) -> str:
    """Spell a FLUID as F58, Flux's default: base 58 behind a ``ƒ``."""
    digits = []
    while True:
        fluid, digit = divmod(fluid, 58)
        digits.append(_ALPHABET[digit])
        if not fluid:
            return "ƒ" + "".join(reversed(digits))


def kvs(fluid: int) -> str:
    """Spell a FLUID as the job's directory in Flux's KVS, ``job.0000.0002.4d00.0000``."""
    text = f"{fluid:016x}"
    return "job." + ".".join(text[i : i + 4] for i in range(0, 16, 4))


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> int:
    """Read a FLUID in any spelling that Flux reads: decimal, ``ƒ``/``f`` F58, ``0x`` hex, dothex, KVS, words or emoji.

    Raises:
        ValueError: the text is none of these, or larger than 64 bits.
    """
    fluid = _parse(text.removeprefix("job.")) if len(text) <= _LONGEST else None
    if fluid is None or not 0 <= fluid <= MAX:
        raise ValueError(f"{text!r} is not a job id: use a decimal number, ƒ…, 0x…, dothex, job.…, words or emoji")
    return fluid


def _parse(text: str) -> int | None:
    if text.isascii() and text.isdecimal() and len(text) <= 20:
        return int(text)
    if match := _DOTHEX.fullmatch(text):
        return int("".join(part.rjust(4, "0") for part in match.groups()), 16)
    if _WORDS.fullmatch(lower := text.lower()):
        return _parse_words(lower)
    if match := _F58.fullmatch(text):
        return _number(match[1], _DIGIT)
    if text and _EMOJI_DIGIT.keys() >= set(text):
        return _number(text, _EMOJI_DIGIT)
    if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", text):
        return int(text, 16)
    return None


def _number(text: str, digits: dict[str, int]) -> int:
    value = 0
    for char in text:
        value = value * len(digits) + digits[char]
    return value


def words(fluid: int) -> str:
    """Spell a FLUID as words, ``academy-...--...``: its eight bytes, least significant first, in mnemonicode."""
    return str(mnemonicode.mnformat(fluid.to_bytes(8, "little")))


def _parse_words(text: str) -> int | None:
    first, second = (parts := re.split("-+", text))[:3], parts[3:]
    try:
        data = bytes(mnemonicode.mnparse(f"{'-'.join(first)}--{'-'.join(second)}"))
    except (ValueError, KeyError):
        return None
    return int.from_bytes(data, "little") if len(data) == 8 else None


class Generator:
    """Makes FLUIDs for the embedded engine.

    Args:
        epoch: the instant from which the time part of the FLUIDs counts (Unix time in milliseconds).
    """

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._last = 0

    def __call__(self) -> int:
        """Return the next FLUID; later calls give larger numbers."""
        now = max(0, int(time.time() * 1000) - self._epoch) << 24
        self._last = max(now, self._last + 1)
        return self._last

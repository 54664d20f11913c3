"""FLUIDs, the encoding of Flux's 64-bit jobids (RFC 19), and their text forms.

A FLUID has 40 bits of milliseconds, 14 bits of generator ID and 10 bits of sequence number. It may exceed 2^53, the
limit of JavaScript's numbers, so users and browsers need the F58 encoding, ``ƒ2oUvBnNfh``.
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
_LONGEST = 200  # characters; mnemonics have fewer than 100
_F58 = re.compile(rf"[ƒf]([{_ALPHABET}]{{1,12}})")
_DOTHEX = re.compile(r"([0-9a-fA-F]{1,4})\.([0-9a-fA-F]{1,4})\.([0-9a-fA-F]{1,4})\.([0-9a-fA-F]{1,4})")
_WORDS = re.compile(r"[a-z]+(?:-+[a-z]+){1,8}")

MAX = 2**64 - 1


@functools.lru_cache(maxsize=4096)
def f58(jobid: int) -> str:
    """Return a jobid in F58 encoding, Flux's default: ``ƒ`` and digits of base 58."""
    digits = []
    while True:
        jobid, digit = divmod(jobid, 58)
        digits.append(_ALPHABET[digit])
        if not jobid:
            return "ƒ" + "".join(reversed(digits))


def f58_ascii(jobid: int | str) -> str:
    """Return a jobid in F58 encoding with an ASCII prefix, ``f2oUvBnNfh``, for URLs and file names.

    Args:
        jobid: the number, or its F58 encoding.
    """
    return (f58(jobid) if isinstance(jobid, int) else jobid).replace("ƒ", "f")


def kvs(jobid: int) -> str:
    """Return the job's directory in Flux's KVS, ``job.0000.0002.4d00.0000``."""
    text = f"{jobid:016x}"
    return "job." + ".".join(text[i : i + 4] for i in range(0, 16, 4))


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> int:
    """Return a jobid from any encoding of Flux: decimal, F58 (``ƒ`` or ``f``), ``0x`` hex, dothex, KVS, words or emoji.

    Raises:
        ValueError: the text is not a jobid, or larger than 64 bits.
    """
    jobid = _parse(text.removeprefix("job.")) if len(text) <= _LONGEST else None
    if jobid is None or not 0 <= jobid <= MAX:
        raise ValueError(f"{text!r} is not a job id: use a decimal number, ƒ…, 0x…, dothex, job.…, words or emoji")
    return jobid


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


def _parse_words(text: str) -> int | None:
    first, second = (parts := re.split("-+", text))[:3], parts[3:]
    try:
        data = bytes(mnemonicode.mnparse(f"{'-'.join(first)}--{'-'.join(second)}"))
    except (ValueError, KeyError):
        return None
    return int.from_bytes(data, "little") if len(data) == 8 else None


class Generator:
    """Generates jobids for the embedded engine.

    Args:
        epoch: start of the time in the jobids (Unix time in milliseconds).
    """

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._last = 0

    def __call__(self) -> int:
        """Return the next jobid, which is larger than all before."""
        now = max(0, int(time.time() * 1000) - self._epoch) << 24
        self._last = max(now, self._last + 1)
        return self._last

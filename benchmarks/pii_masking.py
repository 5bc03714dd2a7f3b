"""What masking finds and misses on made-up English sentences, and how fast it is.

usage: python benchmarks/pii_masking.py
"""

from __future__ import annotations

import sys
import time

from copersona.reading.masking import Masker

PLANTED: dict[str, tuple[list[str], list[str]]] = {
    "e-mail": (
        ["Write to {} before noon.", "My address is {}, thanks!", "cc {} on this."],
        ["ana.lind@example.com", "b.ode+shop@mail.example.org", "zoe_k@uni-x.example.edu",
         "info@kettle.co.uk", "r2d2@example.net", "first.last@sub.firm.de"],
    ),
    "phone": (
        ["Call me on {} tonight.", "My number is {}.", "Text {} if you are late."],
        ["+44 20 7946 0958", "+1 212-555-0143", "(212) 555-0187", "+49 30 901820",
         "212-555-0119", "+33 1 42 68 53 00"],
    ),
    "IBAN": (
        ["Please pay to {}.", "The refund goes to {} as usual.", "IBAN: {}"],
        ["DE89370400440532013000", "GB82WEST12345698765432", "FR1420041010050500013M02606",
         "NL91ABNA0417164300", "GB29 NWBK 6016 1331 9268 19", "CH9300762011623852957"],
    ),
    "card": (
        ["I paid with {}.", "Charge {} please.", "The card {} was refused."],
        ["4111 1111 1111 1111", "5555555555554444", "378282246310005", "4012-8888-8888-1881",
         "6011111111111117", "4222222222222220"],
    ),
    "IP address": (
        ["The router is at {}.", "Blocked after logins from {}.", "ping {} works"],
        ["192.0.2.17", "198.51.100.4", "203.0.113.255", "2001:db8::8a2e:370:7334", "10.0.0.12",
         "2001:0db8:85a3:0000:0000:8a2e:0370:7334"],
    ),
    "name": (
        ["I talked to {} about the garden.", "{} lent me a rake.", "thanks, {}"],
        ["Maria Lindqvist", "John Abernathy", "Priya Raman", "Tom", "Wei Zhang", "zoe kowalski"],
    ),
    "address": (
        ["We live at {}.", "Send the kettle to {}.", "Met her near {} yesterday."],
        ["12 Rosewood Lane, Bristol", "Hauptstrasse 5, Berlin", "44 Elm Street, Springfield",
         "Flat 3, 9 Mill Road, Leeds", "221 Oak Avenue, Portland", "Rua Nova 7, Porto"],
    ),
}  # fmt: skip
HARMLESS = [
    "The recipe needs 500 g of flour and 240 degrees.", "Version 1.2.3 fixed the leak.",
    "Order 20231105 has three parts.", "It took 3 hours and 45 minutes.",
    "The kettle costs 49.90 and boils in 90 seconds.", "I read chapters 12 to 15 twice.",
    "Rose bushes need sun; violets do not.", "Will you mark the page for me?",
    "The bread rose in the basket by noon.", "May is a good month for tomatoes.",
    "Use hex 00ff88 for the button.", "ISBN 978-3-16-148410-0 is out of print.",
    "Turn the dial to 7 and wait.", "A hunter green scarf suits the coat.",
    "The score was 3:2 after extra time.", "Set the timeout to 30000 ms.",
    "We grow basil, mint and sage.", "The china plate broke in two.",
    "Run the job at 10:30 every day.", "Chapter 4.1.2.3 explains the setting.",
    "Its ratio is 1.618033988749.", "I like jazz more than opera.",
    "The turkey was dry, the gravy good.", "Part number 4711-0815 fits both.",
]  # fmt: skip


def main() -> None:
    """Print one row for each kind: sentences, wholly masked, and missed."""
    begun = time.perf_counter()
    masker = Masker()
    masker.text("Warm up, please.")
    opened = time.perf_counter()
    out = sys.stdout.write
    out("| planted | sentences | masked | partly | missed |\n|---|---|---|---|---|\n")
    n = 0
    for kind, (frames, values) in PLANTED.items():
        left = [_left(masker, frame, value) for frame in frames for value in values]
        n += len(left)
        whole, none = left.count("masked"), left.count("missed")
        out(f"| {kind} | {len(left)} | {whole} | {len(left) - whole - none} | {none} |\n")
    changed = [text for text in HARMLESS if masker.text(text) != text]
    seconds = time.perf_counter() - opened
    n += len(HARMLESS)
    out(f"\nharmless sentences changed: {len(changed)} of {len(HARMLESS)}\n")
    for text in changed:
        out(f"  {masker.text(text)}\n")
    out(f"{n / seconds:.0f} texts a second; opened in {opened - begun:.1f} s\n")


def _left(masker: Masker, frame: str, value: str) -> str:
    """Whether every word of a planted value went, some, or none."""
    masked = masker.text(frame.format(value))
    words = [word.strip(",") for word in value.split()]
    kept = sum(word in masked.replace(",", " ").replace(".", " ").split() or word in masked
               for word in words)  # fmt: skip
    return "masked" if not kept else "missed" if kept == len(words) else "partly"


if __name__ == "__main__":
    main()

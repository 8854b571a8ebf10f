"""A small help centre of a bank: documents that questions are asked of."""

from pathlib import Path

PAGES = {
    "blocked-card.md": "# Lost or stolen card\n\nFreeze your card in the app under Cards, then order a new one. "
    "The replacement arrives within five working days and keeps your PIN.",
    "abroad.md": "# Paying in other countries\n\nPurchases in a foreign currency cost 1.75 percent. Cash machines "
    "outside the euro area cost 5 euros each time.",
    "err-4032.md": "# Error ERR-4032\n\nThe transfer was refused because the reference holds characters that the "
    "other bank does not take. Use letters and digits only.",
    "err-4033.md": "# Error ERR-4033\n\nThe transfer was refused because the amount is above the limit of the day. "
    "Raise the limit in the app, or wait until tomorrow.",
    "savings.md": "# Savings account\n\nInterest is paid at the end of each quarter. You can take out your money at "
    "any time without notice.",
    "closing.md": "# Closing an account\n\nSend a signed letter. The balance goes to the account that you name, and "
    "statements stay available for ten years.",
    "moving.md": "# New address\n\nTell us within four weeks where you live now: open Profile, then Address, and "
    "upload a bill that shows it.",
    "minors.md": "# Accounts for children\n\nFrom the age of seven a child may have its own account; both parents "
    "sign. There are no fees until the age of eighteen.",
    "standing-order.md": "# Standing orders\n\nA standing order sends the same amount on the same day of each month. "
    "Change or delete it until the evening before.",
    "pin.md": "# Forgotten PIN\n\nAfter three wrong attempts the card is locked. We send the PIN by post, never by "
    "phone or e-mail.",
    "mortgage.md": "# Home loans\n\nWe finance up to eighty percent of the price of a house. The rate is fixed for "
    "ten, fifteen or twenty years.",
    "fraud.md": "# Fraud\n\nWe never ask for a password on the phone. Hang up, and call the number on the back of "
    "your card.",
}


def write_pages(folder: Path) -> None:
    """The pages as Markdown files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in PAGES.items():
        (folder / name).write_text(text, encoding="utf-8")

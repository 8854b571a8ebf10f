"""Numbers on report pages."""

from finetune_platform.report_page import money, number, signed


def test_numbers_as_people_write_them() -> None:
    assert (number(0.714), number(None), signed(-0.0312)) == ("0.71", "–", "−0.031")
    assert (money(0.00423, "EUR"), money(1234.5, "USD"), money(0, "USD")) == ("EUR 0.0042", "USD 1,234.50", "USD 0")

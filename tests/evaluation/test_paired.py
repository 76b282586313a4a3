"""What two attacks broke on the same images."""

import pytest

from cannonade.evaluation.paired import Paired


def test_counts():
    first, second = [True, True, False, False, True], [True, False, True, False, False]
    assert Paired.of(first, second) == Paired(2, 1, 5)
    with pytest.raises(ValueError, match="shorter"):
        Paired.of(first, second[:4])


def test_records_count_where_both_attacked():
    def record(image, success, attacked=True):
        return {"id": image, "attacked": attacked, "success": success}

    first = [record(0, True), record(1, True), record(2, False), record(3, None, attacked=False), record(5, True)]
    second = [record(5, False), record(2, True), record(1, True), record(3, True), record(0, None, attacked=False)]
    assert Paired.of_records(first, second) == Paired(1, 1, 3)


def test_what_counts_say():
    """Counts whose intervals are known: no discordant pair gives ±z²/(n + z²)."""
    same = Paired(0, 0, 60)
    edge = 100 * 1.6448536**2 / (60 + 1.6448536**2)  # 4.315
    assert same.interval(0.9) == pytest.approx((-edge, edge))
    assert same.equivalent(5)
    assert not same.equivalent(4.3)
    assert (same.points, same.p, same.p_first_stronger) == (0, 1, 1)
    weaker = Paired(1, 4, 100)
    assert weaker.points == pytest.approx(-3)
    assert weaker.p == pytest.approx(2 * (1 + 5) / 32)
    assert weaker.p_first_stronger == pytest.approx((1 + 5 + 10 + 10 + 5) / 32)
    assert not weaker.equivalent(5)
    assert Paired(18, 0, 333).text == "+5.4 [+3.4, +8.4]"
    none = Paired(0, 0, 0)
    assert none.text == "—"
    assert none.interval() is None
    assert not none.equivalent(100)

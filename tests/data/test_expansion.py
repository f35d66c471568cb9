import pytest

from harp_tf.data.expansion import check_expansion
from harp_tf.reading import FACTOR, FLOOR
from harp_tf.types import HarpError


def test_what_no_machine_minds_is_accepted(tmp_path):
    check_expansion(tmp_path, stored=1, announced=FLOOR)
    check_expansion(tmp_path, stored=FLOOR, announced=FACTOR * FLOOR)


@pytest.mark.parametrize(("stored", "announced"), [(1, FLOOR + 1), (FLOOR, FACTOR * FLOOR + 1), (0, 2**96)])
def test_more_is_refused_and_the_file_named(tmp_path, stored, announced):
    with pytest.raises(HarpError, match=f"{tmp_path / 'x'}' announces {announced:,} bytes and has {stored:,}"):
        check_expansion(tmp_path / "x", stored, announced)

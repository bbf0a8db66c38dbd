"""What a trace costs: a word its own maps, calls in files nothing that stays."""

from __future__ import annotations

import pytest
from reference import model

from ebama.bench import traces


@pytest.mark.slow
def test_a_word_costs_its_own_maps_and_not_those_of_all_keys() -> None:
    guides, everything, word, queries, files, records = traces.measure(model()).values()
    small = 4 * 7  # the energies of each resolution, losses and gradient norms
    assert guides[0] - 2 * 16 * 16 * 77 * 2 in range(small)
    assert word[0] - (16 * 16 + 8 * 8) * 2 in range(small)
    assert queries[0] == word[0] + (3 * 16 * 16 * 8 + 4 * 8 * 8 * 16) * 2
    assert everything[0] == files[0] > guides[0]
    assert files[1] == 0
    assert word[2] < everything[2] < records[2]

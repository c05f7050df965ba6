"""Scores of codes against factors: by hand on tiny tables, and at their limits."""

import numpy as np
import pytest

from latens import LatensError
from latens.evaluation.disentanglement import (
    dci_of,
    disentanglement,
    factor_vae_score,
    mig,
    mutual_information,
    sap,
)
from latens.evaluation.latent_space import cluster_accuracy, clustering, latent_quality


@pytest.fixture(scope="session")
def factors():
    random = np.random.default_rng(0)
    return np.stack([random.integers(4, size=1000), random.integers(5, size=1000)], 1)


def rotated(codes):
    return codes @ np.array([[1, 1], [-1, 1]]) / 2**0.5


def test_mig_by_hand():
    # v is a fair bit; z_1 tells it wholly (ln 2), z_2 in half of the rows: in two of four bins
    factor = np.array([[0], [0], [1], [1]])
    codes = np.array([[0.0, 0], [0, 1], [1, 1], [1, 2]])
    table = mutual_information(codes, factor, bins=3)
    half = np.log(2) / 2
    np.testing.assert_allclose(table[:, 0], [np.log(2), half])
    assert mig(codes, factor, bins=3) == pytest.approx(0.5)
    assert mig(codes[:, :1], factor, bins=3) == pytest.approx(1)


def test_information_has_a_row_for_each_code_and_a_column_for_each_factor():
    bits = np.array([[a, b] for a in (0, 1) for b in (0, 1)])
    codes = np.stack([bits[:, 1], np.zeros(4), bits[:, 0]], 1).astype(float)
    table = mutual_information(codes, bits, bins=2)
    np.testing.assert_allclose(table, np.log(2) * np.array([[0, 1], [0, 0], [1, 0]]), atol=1e-12)


def test_dci_by_hand():
    assert dci_of(np.eye(3)) == pytest.approx((1, 1))
    assert dci_of(np.ones((3, 2))) == pytest.approx((0, 0))
    # one code carries both factors: it is not disentangled, yet each factor is in one code
    disentangled, complete = dci_of(np.array([[1.0, 1], [0, 0]]))
    assert (disentangled, complete) == pytest.approx((0, 1))
    # two codes share one factor: each is of one factor alone, which is in no single code
    assert dci_of(np.array([[1.0, 0], [1, 0]])) == pytest.approx((1, 0))
    assert dci_of(np.zeros((2, 2))) == (0, 0)


def test_perfect_codes_score_one(factors):
    noise = 0.01 * np.random.default_rng(1).normal(size=factors.shape)
    scores = disentanglement(factors[:, ::-1] + noise, factors, ("a", "b"))
    assert scores.mig > 0.95
    assert scores.disentanglement > 0.95
    assert scores.completeness > 0.95
    assert scores.informativeness > 0.99
    assert scores.factor_vae > 0.99
    assert scores.sap > 0.2  # a linear machine tells the ends of five values, not the middle


def test_random_codes_score_nothing(factors):
    codes = np.random.default_rng(1).normal(size=(1000, 3))
    scores = disentanglement(codes, factors, ("a", "b"))
    assert scores.mig < 0.05
    assert scores.sap < 0.1
    assert scores.informativeness < 0.4
    assert scores.factor_vae == pytest.approx(0.5, abs=0.1)


def test_rotated_codes_know_everything_and_are_not_disentangled(factors):
    centred = factors / factors.std(0)
    scores = disentanglement(rotated(centred - centred.mean(0)), factors, ("a", "b"))
    assert scores.informativeness > 0.9
    assert scores.mig < 0.1
    assert scores.disentanglement < 0.3


def test_sap_by_hand():
    # A bit that z_1 tells and z_2 does not: accuracies 1 and about a half
    random = np.random.default_rng(0)
    factor = random.integers(2, size=(1000, 1))
    codes = np.concatenate([factor * 2.0 - 1, random.normal(size=(1000, 1))], 1)
    assert sap(codes, factor) == pytest.approx(0.5, abs=0.08)


def test_an_unused_code_does_not_vote(factors):
    noise = np.random.default_rng(1).normal(size=(1000, 1))
    codes = np.concatenate([factors + 0.0, 1e-6 * noise], 1)
    assert factor_vae_score(codes, factors) > 0.99
    assert factor_vae_score(np.zeros((1000, 2)), factors) == 0


def test_what_cannot_be_scored():
    with pytest.raises(LatensError, match="two values"):
        disentanglement(np.zeros((200, 2)), np.zeros((200, 1), int), ("a",))


# ---- classes ---------------------------------------------------------------------------------


def test_clusters_are_matched_with_classes():
    classes = np.array([0, 0, 0, 1, 1, 2])
    assert cluster_accuracy(np.array([2, 2, 2, 0, 0, 1]), classes) == 1
    assert cluster_accuracy(np.array([7, 7, 0, 0, 0, 5]), classes) == pytest.approx(5 / 6)
    # more clusters than classes: each is the class of most of its images
    assert cluster_accuracy(np.array([0, 1, 2, 3, 3, 3]), classes) == pytest.approx(5 / 6)
    # and fewer: the same
    assert cluster_accuracy(np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 0, 0, 2])) == (
        pytest.approx(5 / 7)
    )
    found = clustering(np.array([2, 2, 2, 0, 0, 1]), classes, "by hand")
    assert (found.nmi, found.ari, found.clusters) == (1, 1, 3)


def test_a_probe_and_neighbours_tell_what_is_there():
    random = np.random.default_rng(0)
    y = random.integers(3, size=600)
    apart = 10.0 * np.eye(3)[y] + random.normal(size=(600, 3))
    rows = (apart[:300], y[:300]), (apart[300:], y[300:])
    found = latent_quality(*rows)
    assert found.probe == found.neighbours == found.clustering.accuracy == 1
    assert (found.train, found.test, found.errors["probe"]) == (300, 300, 0)
    noise = random.normal(size=(600, 3))
    found = latent_quality((noise[:300], y[:300]), (noise[300:], y[300:]), clusters=y[300:])
    assert found.probe == pytest.approx(1 / 3, abs=0.1)
    assert found.clustering.accuracy == 1
    assert found.clustering.method == "the mixture of the prior"

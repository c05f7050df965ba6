"""How codes and known factors correspond: MIG, DCI, SAP and the FactorVAE score."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from latens.errors import LatensError

BINS = 20  # of each code, for its mutual information with a factor (Locatello et al. 2019)
TEST_SHARE = 0.2  # of the rows, that predictors are scored on
SEED = 0
VOTES, GROUP = 800, 64  # of the FactorVAE score: votes, and images with one factor in common
LEAST_STD = 0.05  # a code's standard deviation beside the largest: below it the code is unused

Codes = Float[np.ndarray, "N D"]
Factors = Int[np.ndarray, "N F"]


@dataclass(frozen=True)
class Disentanglement:
    """Scores in [0, 1] of codes against factors; 1 is one code for each factor.

    Attributes:
        mig: mutual information gap.
        disentanglement, completeness, informativeness: of DCI.
        sap: separated attribute predictability.
        factor_vae: the FactorVAE score.
        rows: images.
        factors: their names.
    """

    mig: float
    disentanglement: float
    completeness: float
    informativeness: float
    sap: float
    factor_vae: float
    rows: int
    factors: tuple[str, ...]


def disentanglement(
    codes: Codes, factors: Factors, names: tuple[str, ...], seed: int = SEED
) -> Disentanglement:
    """All scores.

    Args:
        codes: mean z of each image.
        factors: the value of each factor, as an index.
        names: of the factors.

    Raises:
        LatensError: a factor with one value only, or fewer than 100 rows.
    """
    if len(codes) < 100 or any(len(np.unique(column)) < 2 for column in factors.T):
        raise LatensError("factors need 100 images or more, and two values or more of each")
    disentangled, complete, informative = dci(codes, factors, seed)
    return Disentanglement(
        mig=mig(codes, factors),
        disentanglement=disentangled,
        completeness=complete,
        informativeness=informative,
        sap=sap(codes, factors, seed),
        factor_vae=factor_vae_score(codes, factors, seed),
        rows=len(codes),
        factors=names,
    )


# ---- mutual information gap ------------------------------------------------------------------


def mig(codes: Codes, factors: Factors, bins: int = BINS) -> float:
    """Mean over factors of (I(z_1; v) − I(z_2; v)) / H(v), z_1 and z_2 the two best codes.

    Chen et al. 2018, "Isolating Sources of Disentanglement in Variational Autoencoders", equation
    6; codes in bins of equal width, as Locatello et al. 2019 do.
    """
    information = np.sort(mutual_information(codes, factors, bins), axis=0)[::-1]
    entropy = np.array([_entropy(np.unique(v, return_counts=True)[1]) for v in factors.T])
    second = information[1] if len(information) > 1 else 0.0
    return float(((information[0] - second) / entropy).mean())


def mutual_information(
    codes: Codes, factors: Factors, bins: int = BINS
) -> Float[np.ndarray, "D F"]:
    """I(z_d; v_f) in nats, of codes in bins."""
    from sklearn.metrics import mutual_info_score

    binned = [np.digitize(code, np.histogram_bin_edges(code, bins)[1:-1]) for code in codes.T]
    return np.array([[mutual_info_score(code, factor) for factor in factors.T] for code in binned])


def _entropy(counts: np.ndarray) -> float:
    """In nats."""
    from scipy.stats import entropy

    return float(entropy(counts))


# ---- DCI -------------------------------------------------------------------------------------


def dci(codes: Codes, factors: Factors, seed: int = SEED) -> tuple[float, float, float]:
    """Disentanglement, completeness and informativeness.

    Eastwood & Williams 2018, "A Framework for the Quantitative Evaluation of Disentangled
    Representations", section 2, with boosted trees as predictors; a code's importance for a factor
    is how much accuracy is lost on unseen rows when it is permuted, 0 at least. Informativeness is
    their accuracy on unseen rows.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.inspection import permutation_importance

    train, test = _halves(len(codes), seed)
    importance = np.zeros((codes.shape[1], factors.shape[1]))
    scores = []
    for f, factor in enumerate(factors.T):
        model = HistGradientBoostingClassifier(max_iter=50, random_state=seed)
        model.fit(codes[train], factor[train])
        scores.append(model.score(codes[test], factor[test]))
        lost = permutation_importance(model, codes[test], factor[test], random_state=seed)
        importance[:, f] = lost["importances_mean"].clip(min=0)
    return (*dci_of(importance), float(np.mean(scores)))


def dci_of(importance: Float[np.ndarray, "D F"]) -> tuple[float, float]:
    """Disentanglement and completeness of a table of importances."""
    total = importance.sum()
    if total == 0:
        return 0.0, 0.0
    codes, factors = importance.shape
    by_code, by_factor = importance.sum(1), importance.sum(0)
    disentangled = sum(
        by_code[d] / total * (1 - _entropy(importance[d]) / np.log(factors))
        for d in range(codes)
        if by_code[d] > 0 and factors > 1
    )
    complete = sum(
        by_factor[f] / total * (1 - _entropy(importance[:, f]) / np.log(codes))
        for f in range(factors)
        if by_factor[f] > 0 and codes > 1
    )
    return float(disentangled), float(complete)


def _halves(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(rows)
    held_out = max(1, round(TEST_SHARE * rows))
    return order[held_out:], order[:held_out]


# ---- SAP and the FactorVAE score -------------------------------------------------------------


def sap(codes: Codes, factors: Factors, seed: int = SEED) -> float:
    """Mean over factors of the gap between the two best codes in telling the factor alone.

    Kumar et al. 2018, "Variational Inference of Disentangled Latent Concepts from Unlabeled
    Observations", section 3: the accuracy of a linear support-vector machine on one code.
    """
    from sklearn.svm import LinearSVC

    train, test = _halves(len(codes), seed)
    scores = np.zeros((codes.shape[1], factors.shape[1]))
    for d, code in enumerate(codes.T):
        column = ((code - code.mean()) / (code.std() or 1.0))[:, None]
        for f, factor in enumerate(factors.T):
            machine = LinearSVC(C=0.01, class_weight="balanced", random_state=seed)
            machine.fit(column[train], factor[train])
            scores[d, f] = machine.score(column[test], factor[test])
    best = np.sort(scores, axis=0)[::-1]
    second = best[1] if len(best) > 1 else 0.0
    return float((best[0] - second).mean())


def factor_vae_score(
    codes: Codes, factors: Factors, seed: int = SEED, votes: int = VOTES, group: int = GROUP
) -> float:
    """How well the code that varies least tells which factor is held fixed.

    Kim & Mnih 2018, "Disentangling by Factorising", section 4: in each group of images one factor
    has one value; the code with the least variance, in units of its variance over all images,
    votes for the factor. The score is the accuracy of the majority vote on as many new groups.
    """
    random = np.random.default_rng(seed)
    scale = codes.std(0)
    used = scale > LEAST_STD * scale.max()
    if not used.any() or scale.max() == 0:
        return 0.0
    ballots = []
    for _ in range(2 * votes):
        f = random.integers(factors.shape[1])
        value = factors[random.integers(len(factors)), f]
        rows = random.choice(np.flatnonzero(factors[:, f] == value), group)
        variance = (codes[rows][:, used] / scale[used]).var(0)
        ballots.append((int(variance.argmin()), int(f)))
    counts = np.zeros((int(used.sum()), factors.shape[1]))
    np.add.at(counts, tuple(np.array(ballots[:votes]).T), 1)
    majority = counts.argmax(1)
    return float(np.mean([majority[d] == f for d, f in ballots[votes:]]))

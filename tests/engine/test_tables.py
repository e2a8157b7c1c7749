"""Tables of masks and their fits: LIME's and KernelSHAP's, against their authors' and by hand."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from backlight.engine.masked import tables

from .games import shapley

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("rows", [40, 301])
def test_lime_s_matrix_is_a_weighted_ridge_regression_by_hand(rows):
    made = tables.lime_regression(12, rows, seed=3)
    z = made.table.astype(float)
    assert z.shape == (rows, 12) and z[0].all() and not z[1].any() and not made.exact
    pairs = z[: rows // 2 * 2].reshape(-1, 2, 12)
    assert (pairs.sum(axis=1) == 1).all(), "each row with its opposite"
    d = 1 - z.sum(axis=1) / np.sqrt(12 * np.maximum(z.sum(axis=1), 1))
    np.testing.assert_allclose(made.weights, np.exp(-(d**2) / 0.25**2) ** 0.5)
    y = RNG.normal(size=(rows, 3)) + z @ RNG.normal(size=(12, 3))
    fit = made.fit(y)
    # Ridge with an unpenalised intercept, as one system of normal equations.
    full = np.c_[z, np.ones(rows)]
    ridge = np.diag([1.0] * 12 + [0.0])
    want = np.linalg.solve((full.T * made.weights) @ full + ridge, (full.T * made.weights) @ y)
    np.testing.assert_allclose(fit.values, want[:-1], rtol=0, atol=1e-10)
    np.testing.assert_allclose(fit.intercept, want[-1], rtol=0, atol=1e-10)
    np.testing.assert_allclose(fit.gap, want[:-1].sum(axis=0) - (y[0] - y[1]), atol=1e-9)
    w, mean = made.weights[:, None], (made.weights @ y) / made.weights.sum()
    r2 = 1 - (w * (y - full @ want) ** 2).sum(axis=0) / (w * (y - mean) ** 2).sum(axis=0)
    np.testing.assert_allclose(fit.r2, r2, rtol=1e-9)


def test_lime_s_fit_is_scikit_learn_s():
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    made = tables.lime_regression(20, 200, seed=1)
    y = RNG.random((200, 2))
    model = linear.Ridge(1.0).fit(made.table, y, sample_weight=made.weights)
    fit = made.fit(y)
    np.testing.assert_allclose(fit.values.T, model.coef_, atol=1e-8)
    np.testing.assert_allclose(fit.intercept, model.intercept_, atol=1e-8)
    for k in range(2):
        one = linear.Ridge(1.0).fit(made.table, y[:, k], sample_weight=made.weights)
        assert fit.r2[k] == pytest.approx(one.score(made.table, y[:, k], made.weights))


def test_lime_s_fit_is_the_authors_own_on_the_same_rows():
    base = pytest.importorskip("lime.lime_base", reason="lime is not installed")
    pairwise = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    made = tables.lime_regression(15, 120, seed=6)
    z, y = made.table.astype(float), RNG.random((120, 2))
    distances = pairwise.pairwise_distances(z, z[:1], metric="cosine").ravel()
    theirs = base.LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / 0.25**2)))
    fit = made.fit(y)
    for k in range(2):
        intercept, values, r2, _ = theirs.explain_instance_with_data(
            z, y, distances, k, 15, feature_selection="none"
        )
        np.testing.assert_allclose(fit.values[:, k], [v for _, v in sorted(values)], atol=1e-8)
        assert fit.intercept[k] == pytest.approx(intercept)
        assert fit.r2[k] == pytest.approx(r2)


def test_all_subsets_give_what_shap_gives():
    shap = pytest.importorskip("shap", reason="shap is not installed")
    weights = RNG.normal(size=(6, 4))

    def game(z):
        return np.tanh(z @ weights).sum(axis=1)

    made = tables.shap_regression(6, None, seed=0)
    found = made.fit(game(made.table.astype(float))[:, None]).values[:, 0]
    explainer = shap.KernelExplainer(game, np.zeros((1, 6)))
    want = explainer.shap_values(np.ones((1, 6)), nsamples=64, l1_reg=False, silent=True)[0]
    np.testing.assert_allclose(found, want, atol=1e-8)


def test_all_subsets_give_the_shapley_values_of_the_definition():
    made = tables.shap_regression(6, None, seed=0)
    assert made.exact and len(made.table) == 64 and len(np.unique(made.table, axis=0)) == 64
    game = {row: float(v) for row, v in zip(map(tuple, made.table.tolist()),
                                            RNG.normal(size=64), strict=True)}  # fmt: skip
    fit = made.fit(np.array([[game[tuple(row)]] for row in made.table.tolist()]))
    np.testing.assert_allclose(fit.values[:, 0], shapley(game, 6), atol=1e-12)
    assert abs(fit.gap[0]) < 1e-12
    # And the same by weighted least squares under the kernel, through both ends.
    solved = tables._constrained(made.table, made.weights)
    np.testing.assert_allclose(solved, made.matrix, atol=1e-12)


@pytest.mark.parametrize(("segments", "rows"), [(2, 4), (12, 4096), (13, 2074), (50, 2148)])
def test_how_many_subsets_kernelshap_takes(segments, rows):
    made = tables.shap_regression(segments, None, seed=0)
    assert made.table.shape == (rows, segments) and made.exact == (segments <= 12)
    assert made.table[0].all() and not made.table[1].any() and (made.weights[:2] == 0).all()
    assert len(np.unique(made.table, axis=0)) == rows


def test_the_kernel_s_masses_by_size_are_the_paper_s():
    """(M - 1) / (s (M - s)): 1, 2/3, 2/3, 1 for M = 5, in proportion; and of a sampled table the
    sizes that are enumerated, and all of them together, keep theirs."""
    made = tables.shap_regression(5, None, seed=0)
    sizes = made.table.sum(axis=1)
    mass = np.array([made.weights[sizes == s].sum() for s in range(1, 5)])
    np.testing.assert_allclose(mass, [1, 2 / 3, 2 / 3, 1], rtol=1e-12)
    sampled = tables.shap_regression(20, 2000, seed=0)
    sizes = sampled.table.sum(axis=1)
    share = 1 / (np.arange(1, 20) * (20 - np.arange(1, 20)))
    share /= share.sum()
    for s in (1, 2, 18, 19):
        assert (sizes == s).sum() == comb(20, int(s))
        assert sampled.weights[sizes == s].sum() == pytest.approx(share[s - 1])
    assert sampled.weights.sum() == pytest.approx(1)
    drawn = sampled.table[(sizes > 2) & (sizes < 18)]
    both = {tuple(r) for r in drawn.tolist()}
    assert sum(tuple(1 - np.array(r)) in both for r in drawn) >= len(drawn) - 1


@pytest.mark.parametrize("rows", [2, 5, 30, 400, 3000])
def test_sampled_values_always_sum_to_the_whole(rows):
    made = tables.shap_regression(30, rows, seed=2)
    assert len(made.table) == rows
    fit = made.fit(RNG.normal(size=(rows, 4)))
    np.testing.assert_allclose(fit.gap, 0, atol=1e-12)
    assert np.isfinite(fit.values).all()


def test_a_linear_game_is_found_exactly_whatever_is_sampled():
    weights = RNG.normal(size=(25, 2))
    for made in (tables.shap_regression(25, 200, seed=1), tables.shap_regression(25, 200, seed=9)):
        fit = made.fit(made.table @ weights + 3)
        np.testing.assert_allclose(fit.values, weights, atol=1e-10)
        np.testing.assert_allclose(fit.r2, 1, atol=1e-10)


def test_scores_that_never_change_have_no_fit_to_speak_of():
    for made in (tables.lime_regression(9, 100, 0), tables.shap_regression(9, None, 0)):
        fit = made.fit(np.full((len(made.table), 2), 0.3))
        assert not fit.values.any() and not fit.gap.any() and np.isnan(fit.r2).all()


def test_opposite_rows_say_more_than_as_many_single_ones():
    """Of a game with pairs in it: half the variance, or less, that independent coins give."""
    a, b = RNG.normal(size=12), RNG.normal(size=(12, 12)) / 4

    def game(z):
        return (z @ a + np.einsum("ni,ij,nj->n", z, b, z))[:, None]

    def spread(coins):
        found = []
        for seed in range(60):
            z = tables.lime_regression(12, 200, seed).table
            if coins:
                z = np.random.default_rng(seed).integers(0, 2, z.shape)
                z[0] = 1
            w = np.ones(len(z))
            c = z - z.mean(axis=0)
            found.append(np.linalg.solve((c.T * w) @ c + np.eye(12), c.T @ game(z))[:, 0])
        return np.var(found, axis=0).sum()

    assert spread(coins=False) < 0.75 * spread(coins=True)

from itertools import combinations, permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdgf_jax.classifier.mutual_learning import entropy_loss, normalised_entropy, similarity_loss
from bdgf_jax.errors import InputError

LOGITS = {name: 3.0 * jax.random.normal(jax.random.key(i), (6, 2, 2, 4)) for i, name in enumerate("abc")}
EMBEDDINGS = {name: jax.random.normal(jax.random.key(i), (6, 8)) for i, name in enumerate("abc")}


def softmax(logits):
    logits = np.float64(logits)
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    return probabilities / probabilities.sum(-1, keepdims=True)


def entropy(logits):
    probabilities = softmax(logits)
    return -(probabilities * np.log(probabilities)).sum(-1) / np.log(4)


def aligned(logits):
    return sum(((entropy(a) - entropy(b)) ** 2).mean() for a, b in combinations(logits.values(), 2))


def divergence(logits, sure_teachers):
    total = 0.0
    for student, teacher in permutations(logits.values(), 2):
        p, q = softmax(teacher), softmax(student)
        weight = np.exp(-entropy(teacher)) if sure_teachers else 1.0
        total += (weight * (p * np.log(p / q)).sum(-1)).mean()
    return total


@pytest.mark.parametrize("sure_teachers", [False, True])
def test_the_entropy_loss_follows_its_formula_in_float64(sure_teachers):
    loss = lambda alignment: entropy_loss(LOGITS, alignment=alignment, sure_teachers=sure_teachers)
    np.testing.assert_allclose(loss("entropy"), aligned(LOGITS), rtol=1e-5)
    np.testing.assert_allclose(loss("divergence"), divergence(LOGITS, sure_teachers), rtol=1e-5)
    np.testing.assert_allclose(loss("both"), loss("entropy") + loss("divergence"), rtol=1e-6)


def test_the_entropy_is_0_for_a_sure_and_1_for_an_even_prediction():
    np.testing.assert_allclose(
        normalised_entropy(jnp.array([[90.0, 0.0, 0.0], [1.0, 1.0, 1.0]])), [0.0, 1.0], atol=1e-6
    )


def test_alignment_pulls_at_the_less_sure_branch_alone():
    sure, unsure = jnp.array([[5.0, 0.0, 0.0]]), jnp.array([[0.5, 0.0, 0.0]])
    gradient = jax.grad(lambda logits: entropy_loss(logits, alignment="entropy"))({"a": sure, "b": unsure})
    np.testing.assert_array_equal(gradient["a"], 0.0)
    assert gradient["b"][0, 0] < 0.0


def test_a_step_of_alignment_makes_the_less_sure_branch_surer():
    logits = {"a": jnp.array([[5.0, 0.0, 0.0]]), "b": jnp.array([[0.5, 0.0, 0.0]])}
    gradient = jax.grad(lambda logits: entropy_loss(logits, alignment="entropy"))(logits)
    moved = {name: logits[name] - gradient[name] for name in logits}
    assert normalised_entropy(moved["b"])[0] < normalised_entropy(logits["b"])[0]


def test_a_teacher_learns_nothing_from_its_lesson():
    """The gradient of mean KL(p_t ‖ p_s) with the teacher held is (p_s - p_t) / pixels; both teach each other."""
    logits = {name: LOGITS[name] for name in "ab"}
    gradient = jax.grad(lambda logits: entropy_loss(logits, alignment="divergence"))(logits)
    expected = (softmax(LOGITS["a"]) - softmax(LOGITS["b"])) / 24
    np.testing.assert_allclose(gradient["a"], expected, atol=1e-6)
    np.testing.assert_allclose(gradient["b"], -expected, atol=1e-6)


def test_a_teacher_is_not_moved_by_how_sure_it_is():
    logits = {name: LOGITS[name] for name in "ab"}
    gradient = jax.grad(lambda logits: entropy_loss(logits, alignment="divergence", sure_teachers=True))(logits)
    weight = np.exp(-entropy(LOGITS["b"]))[..., None]
    np.testing.assert_allclose(gradient["a"], weight * (softmax(LOGITS["a"]) - softmax(LOGITS["b"])) / 24, atol=1e-6)


def test_the_similarity_losses_follow_their_formulas_in_float64():
    units = [np.float64(z) / np.linalg.norm(np.float64(z), axis=-1, keepdims=True) for z in EMBEDDINGS.values()]
    cosine = sum((1.0 - (a * b).sum(-1)).mean() for a, b in combinations(units, 2))
    relational = sum(((a @ a.T - b @ b.T) ** 2).mean() for a, b in combinations(units, 2))
    np.testing.assert_allclose(similarity_loss(EMBEDDINGS, kind="cosine"), cosine, rtol=1e-5)
    np.testing.assert_allclose(similarity_loss(EMBEDDINGS, kind="relational"), relational, rtol=1e-5)


def test_relations_are_the_same_in_rotated_features():
    rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(9), (8, 8)))[0]
    turned = {"a": EMBEDDINGS["a"], "b": EMBEDDINGS["a"] @ rotation}
    np.testing.assert_allclose(similarity_loss(turned, kind="relational"), 0.0, atol=1e-6)
    assert similarity_loss(turned, kind="cosine") > 0.1


def test_an_embedding_of_zeros_has_a_finite_gradient():
    gradient = jax.grad(lambda z: similarity_loss({"a": z, "b": EMBEDDINGS["b"]}))(jnp.zeros((6, 8)))
    assert jnp.isfinite(gradient).all()


def test_branches_that_agree_and_a_branch_alone_lose_nothing():
    for logits in ({"a": LOGITS["a"], "b": LOGITS["a"]}, {"a": LOGITS["a"]}):
        np.testing.assert_allclose(entropy_loss(logits), 0.0, atol=1e-6)
    assert similarity_loss({"a": EMBEDDINGS["a"]}) == 0.0


def test_unknown_kinds_are_refused():
    with pytest.raises(InputError, match="'kl'; expected one of both, entropy, divergence"):
        entropy_loss(LOGITS, alignment="kl")
    with pytest.raises(InputError, match="'l2'; expected one of cosine, relational"):
        similarity_loss(EMBEDDINGS, kind="l2")

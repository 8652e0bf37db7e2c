"""Golden functions of whole distributions: logits are the hidden states of a head that is the identity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.kernels import divergence, kept_logprobs, score_many, token_score, top_k

LIKELIEST = 5  # entries of the mean of the largest log-probs
MIN_P = 0.02


def ids(x):
    return jnp.asarray(np.asarray(x), jnp.int32)


def scorer(f, logits, **options):
    """Calls a kernel on logits."""
    head = jnp.eye(logits.shape[-1], dtype=logits.dtype)
    return functools.partial(f, logits, head, head_layout="vd", **options)


def diverge(logits, ref_logits, *kinds, **options):
    head = jnp.eye(logits.shape[-1], dtype=logits.dtype)
    layouts = {"head_layout": "vd", "ref_head_layout": "vd"}
    return divergence(logits, head, ref_logits, head, kinds=kinds, **layouts, **options)


@functools.partial(jax.jit, static_argnames=("top_k_", "block"))
def _token_statistics(logits, labels, ref_logits, top_k_, block):
    options = {"block": block}
    scores = scorer(token_score, logits, **options)(labels, statistics=("sum_p2", "rank"))
    best = scorer(top_k, logits, **options)(top_k_)
    apart = diverge(logits, ref_logits, "kl_policy_ref", "kl_ref_policy", "total_variation", **options)
    return {
        "lse": scores.lse,
        "logp": scores.logprobs,
        "ref_logp": scorer(token_score, ref_logits, **options)(labels).logprobs,
        "entropy": scores.entropy,
        "kl_ref_policy": apart.kl_ref_policy,
        "kl_policy_ref": apart.kl_policy_ref,
        "log_sum_p2": jnp.log(scores.sum_p2),
        "tvd_l1": 2 * apart.total_variation,
        "rank": scores.rank,
        "topk_ids": best.ids,
        "topk_logp": best.logprobs,
    }


def token_statistics(logits, labels, ref_logits, top_k, block=None):
    return _token_statistics(jnp.asarray(logits), ids(labels), jnp.asarray(ref_logits), top_k, block)


def token_statistics_grads(logits, labels, ref_logits):
    def one(name):
        def total(logits):
            if name.startswith("kl"):
                return jnp.sum(getattr(diverge(logits, jnp.asarray(ref_logits), name), name))
            scores = scorer(token_score, logits)(ids(labels))
            return jnp.sum({"logp": scores.logprobs, "entropy": scores.entropy, "lse": scores.lse}[name])

        return jax.grad(total)(jnp.asarray(logits))

    return {name: one(name) for name in ("logp", "entropy", "kl_ref_policy", "kl_policy_ref", "lse")}


def vocab_stats_streaming(z, token, zq, block=None):
    """Ranks count from 0; the confidence of a token is that of its distribution against the uniform one."""
    z, zq, token = jnp.asarray(z), jnp.asarray(zq), ids(token)
    wanted = ("max_logit", "target_logit", "sum_logits", "sum_p2", "sum_p2_logp", "varentropy", "top2_gap")
    scores = scorer(token_score, z)(token, statistics=(*wanted, "rank", "mass_above"), block=block)
    apart = diverge(z, zq, "kl_policy_ref", "kl_ref_policy", "squared_hellinger", block=block)
    p, surprise = jnp.exp(scores.logprobs), scores.logprobs + scores.entropy
    confidence = scores.lse - scores.sum_logits / z.shape[-1]
    return {
        "lse": scores.lse,
        "chosen_logit": scores.target_logit,
        "logp": scores.logprobs,
        "entropy": scores.entropy,
        "max_logp": scores.max_logit - scores.lse,
        "top1_minus_top2": scores.top2_gap,
        "topk_mean_neglogp": -jnp.mean(scorer(top_k, z)(min(LIKELIEST, z.shape[-1]), block=block).logprobs, axis=-1),
        "sum_p2": scores.sum_p2,
        "varentropy": scores.varentropy,
        "self_certainty": confidence,
        "kl_uniform_p": confidence - np.log(z.shape[-1]),
        "rank": scores.rank - 1,
        "mass_above": scores.mass_above,
        "dH_dz_chosen": -p * surprise,
        "entropy_drift": scores.sum_p2_logp + scores.entropy * scores.sum_p2 - p * surprise,
        "kl_pq": apart.kl_policy_ref,
        "kl_qp": apart.kl_ref_policy,
        "bhattacharyya": 1 - apart.squared_hellinger,
        "hellinger": jnp.sqrt(apart.squared_hellinger),
        "hellinger_sq": apart.squared_hellinger,
    }


def vocab_stats(z, token, zq):
    apart = diverge(jnp.asarray(z), jnp.asarray(zq), "jsd", "total_variation")
    rest = {"minp_logp": minp_proxy_logp(z, token), "js": apart.jsd, "tv": apart.total_variation}
    return {**vocab_stats_streaming(z, token, zq), **rest}


def minp_proxy_logp(logits, token, kappa=MIN_P):
    """-inf for a token that the filter drops; the kernel keeps the target in any case."""
    logits, token = jnp.asarray(logits), ids(token)
    scores = scorer(token_score, logits)(token, statistics=("max_logit",))
    # Rounded down: with kappa = 1 the largest are to be kept.
    thresholds = scores.max_logit - scores.lse + np.log(kappa)
    thresholds = thresholds - 8 * jnp.finfo(thresholds.dtype).eps * (1 + jnp.abs(thresholds))
    kept = scorer(kept_logprobs, logits)(token, thresholds, scores.lse)
    return jnp.where(scores.logprobs < thresholds, -jnp.inf, kept)


def distilled(kind, student_logits, teacher_logits, mask, temperature, beta=0.5):
    """Gives (loss, per token) and the gradient of the loss, the mean over the mask."""
    mask, teacher = jnp.asarray(mask), jnp.asarray(teacher_logits)

    def loss(student):
        options = {"inv_temperature": 1 / temperature, "beta": beta}
        per_token = getattr(diverge(student, teacher, kind, **options), kind)
        return jnp.sum(jnp.where(mask > 0, per_token, 0)) / jnp.sum(mask), per_token

    return jax.value_and_grad(loss, has_aux=True)(jnp.asarray(student_logits))


def kl_distill(student_logits, teacher_logits, mask, direction="forward", temperature=1.0):
    kind = {"forward": "kl_ref_policy", "reverse": "kl_policy_ref"}[direction]
    (loss, per_token), gradient = distilled(kind, student_logits, teacher_logits, mask, temperature)
    return {"loss": loss, "per_token": per_token, "grad_student": gradient}


def gkd_jsd(student_logits, teacher_logits, mask, beta=0.5, temperature=1.0):
    """Weights of 0 and 1 stand for the two KL divergences."""
    kind = {0: "kl_ref_policy", 1: "kl_policy_ref"}.get(beta, "jsd")
    (loss, per_token), _ = distilled(kind, student_logits, teacher_logits, mask, temperature, beta)
    return {"loss": loss, "per_token": per_token}


def linear_cross_entropy(hidden, weight, labels, mask):
    hidden, weight, labels, mask = jnp.asarray(hidden), jnp.asarray(weight), ids(labels), jnp.asarray(mask) > 0

    def loss(hidden, weight):
        scores = score_many(hidden, weight, labels[..., None], head_layout="vd")
        chosen = scores.logprobs[..., 0]
        return -jnp.sum(jnp.where(mask, chosen, 0)) / jnp.sum(mask, dtype=chosen.dtype), (scores.lse, -chosen)

    (value, (lse, nll)), (d_hidden, d_weight) = jax.value_and_grad(loss, (0, 1), has_aux=True)(hidden, weight)
    return {"loss": value, "lse": lse, "nll": nll, "grad_hidden": d_hidden, "grad_weight": d_weight}


FUNCTIONS = {
    "token_statistics": token_statistics,
    "token_statistics_streaming": token_statistics,
    "token_statistics_grads": token_statistics_grads,
    "vocab_stats": vocab_stats,
    "vocab_stats_streaming": vocab_stats_streaming,
    "minp_proxy_logp": minp_proxy_logp,
    "kl_distill": kl_distill,
    "gkd_jsd": gkd_jsd,
    "linear_cross_entropy": linear_cross_entropy,
}

"""PPO's arithmetic as pure functions.

Shapes: b responses of at most r tokens; every tensor is [b, r] unless said otherwise. `mask` is 1 on the response's
tokens, EOS included, and 0 on padding. Log-probabilities are in nats; rewards, values and advantages in score units.
"""

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x over the tokens of the mask, a scalar; 0 where the mask is empty."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def masked_whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """x scaled to variance 1 over the mask's tokens and, with shift_mean, to mean 0; zero outside the mask.

    The variance is the unbiased one, as in TRL; with fewer than two tokens it does not exist and x is returned
    masked (TRL divided by n - 1 = 0 there).
    """
    count = mask.sum()
    if count < 2:
        return x * mask
    mean = masked_mean(x, mask)
    variance = ((x - mean).square() * mask).sum() / (count - 1)
    whitened = (x - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask


def token_kl(logps: Tensor, ref_logps: Tensor, mask: Tensor, estimator: str = "k1") -> Tensor:
    """Estimate of KL(policy || reference) at each sampled token, in nats; zero outside the mask.

    k1 is log p - log q: unbiased, and negative for some tokens. k3 is q/p - 1 - log(q/p): unbiased, never negative, of
    lower variance near 0. Source: Schulman 2020, joschu.net/blog/kl-approx.html; TRL 1.12 has the same two.
    """
    log_ratio = (ref_logps - logps) * mask
    return -log_ratio if estimator == "k1" else torch.expm1(log_ratio) - log_ratio


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """The reward of each token: the KL penalty everywhere, and the score [b] on the last real token.

    r_t = -kl_coef * kl_t + score at the response's last token (its EOS, or the last one sampled).
    Source: Ziegler et al. 2019, arXiv:1909.08593, eq. 2. TRL 1.12 put the score one token later, on the first
    padding token (huggingface/trl#3750).
    """
    rewards = -kl_coef * kl * mask
    last = mask.long().sum(1) - 1
    rewards[torch.arange(len(rewards), device=rewards.device), last] += scores
    return rewards


def advantages_gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates, zero outside the response; the value after the last token is 0.

    Source: Schulman et al. 2016, arXiv:1506.02438, eq. 16.
    """
    rewards, values = rewards * mask, values * mask
    advantages, running = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        following = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(running)
        running = rewards[:, t] + gamma * following - values[:, t] + gamma * lam * running
        advantages[:, t] = running
    return advantages * mask


def policy_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, cliprange: float) -> Tensor:
    """Clipped surrogate loss of each token, to be minimised; zero outside the mask.

    max(-A ratio, -A clip(ratio, 1 - c, 1 + c)). Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7.
    """
    ratio = torch.exp((logps - old_logps) * mask)
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange)
    return torch.maximum(-advantages * ratio, -advantages * clipped) * mask


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, cliprange_value: float) -> Tensor:
    """Clipped squared error of each token, halved; zero outside the mask.

    0.5 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2). Source: TRL 1.12 and OpenAI's baselines (ppo2).
    """
    clipped = torch.clamp(values, old_values - cliprange_value, old_values + cliprange_value)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square()) * mask


def adapted_kl_coef(kl_coef: float, kl_nats: float, target_kl: float, episodes: int, horizon: int) -> float:
    """The next KL coefficient, from the KL of the last rollout: up where it is above the target, down where below.

    kl_coef * (1 + clip(KL / target - 1, -0.2, 0.2) * episodes / horizon). Source: Ziegler et al. 2019,
    arXiv:1909.08593, section 2.2; `adap_kl_ctrl` of TRL until 0.11.
    """
    error = min(max(kl_nats / target_kl - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the mask's tokens; 1 is a perfect critic, below 0 a harmful one.

    NaN where the returns do not vary.
    """
    keep = mask.bool()
    spread = returns[keep].var(correction=0)
    return 1 - (returns - values)[keep].var(correction=0) / spread if spread > 0 else torch.tensor(float("nan"))

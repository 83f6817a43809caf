"""Guards look at a rollout's metrics before anything is learnt from it, warn first, and stop a run that is lost.

PPO fails quietly: the loss stays small while the policy repeats one token or talks to the reward model's blind spot.
Each guard is a few lines; `ppo.guards_off` switches one off by its name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Guard:
    """A condition on a rollout's metrics, for how many rollouts in a row it may hold, and what a person can do."""

    name: str
    warns: int  # at this many rollouts in a row
    stops: int
    holds: Callable[[Metrics, Metrics, Any], bool]  # (this rollout's metrics, the first rollout's, the PPOConfig)
    found: str  # formatted with this rollout's metrics as m, the first's as first, the PPOConfig as args
    remedy: str


GUARDS = (
    Guard(
        "kl", 1, 3, lambda m, first, args: m["objective/kl"] > args.max_kl,
        "KL from the SFT policy is {m[objective/kl]:.1f} nats, above the budget of {args.max_kl:g}",
        "raise ppo.kl_coef, set ppo.kl_control: adaptive, or lower ppo.learning_rate (the budget is ppo.max_kl)",
    ),
    Guard(
        "negative_kl", 1, 3, lambda m, first, args: args.kl_estimator == "k1" and m["objective/kl"] < -1,
        "the estimate of KL is {m[objective/kl]:.2f} nats, and a KL is never negative: the responses were not sampled "
        "from the policy",
        "look for what changes the sampling: another temperature, a filter on tokens, an adapter that is not loaded",
    ),
    Guard(
        "eos", 1, 5, lambda m, first, args: m["eos_rate"] < 0.02,
        "{m[eos_rate]:.0%} of the responses come to an end before {args.max_completion_length} tokens",
        "raise data.max_response_tokens or ppo.missing_eos_penalty, and check that SFT learnt to end its turns",
    ),
    Guard(
        "length", 1, 5, lambda m, first, args: m["lengths/mean"] > 0.98 * args.max_completion_length,
        "responses are {m[lengths/mean]:.0f} tokens long on average, and {args.max_completion_length} is the cap",
        "raise data.max_response_tokens, or check whether the reward model pays for length alone",
    ),
    Guard(
        "entropy", 1, 3, lambda m, first, args: m["policy/token_entropy"] < 0.02 * first["policy/token_entropy"],
        "the policy's entropy fell from {first[policy/token_entropy]:.3f} to {m[policy/token_entropy]:.4f} nats a "
        "token: it says nearly the same whatever it is asked",
        "raise ppo.kl_coef, lower ppo.learning_rate or ppo.num_ppo_epochs",
    ),
    Guard(
        "critic", 5, 10, lambda m, first, args: m["val/explained_variance"] < 0,
        "the critic explains nothing: explained variance {m[val/explained_variance]:.2f}",
        "raise ppo.critic_learning_rate, set ppo.critic_warmup_rollouts, or use ppo.critic: adapter",
    ),
)  # fmt: skip
NAMES = tuple(guard.name for guard in GUARDS)


@dataclass(frozen=True)
class Finding:
    """What a guard saw in a rollout; `stop` says that it has seen it too often in a row."""

    guard: str
    text: str
    stop: bool


class GuardWatch:
    """Counts, for each guard, the rollouts in a row on which it held."""

    def __init__(self, args: Any) -> None:
        unknown = sorted(set(args.guards_off) - set(NAMES))
        if unknown:
            raise ValueError(f"guards_off: no guard {', '.join(unknown)}; there are {', '.join(NAMES)}")
        self.args = args
        self.counts: dict[str, int] = {}
        self.first: dict[str, float] = {}

    def look(self, metrics: Metrics) -> list[Finding]:
        """What there is to say of this rollout: a guard speaks once when it warns, and again when it stops the run."""
        self.first = self.first or dict(metrics)
        for guard in GUARDS:
            held = guard.name not in self.args.guards_off and guard.holds(metrics, self.first, self.args)
            self.counts[guard.name] = self.counts.get(guard.name, 0) + 1 if held else 0
        return [self._finding(g, metrics) for g in GUARDS if self.counts[g.name] in (g.warns, g.stops)]

    @property
    def content(self) -> bool:
        """Whether no guard has seen enough to warn of the last rollout."""
        return all(self.counts.get(guard.name, 0) < guard.warns for guard in GUARDS)

    def _finding(self, guard: Guard, metrics: Metrics) -> Finding:
        count = self.counts[guard.name]
        found = guard.found.format(m=metrics, first=self.first, args=self.args)
        often = f"{count} rollouts in a row" if count > 1 else f"stops the run at {guard.stops} in a row"
        text = f"{found} ({often}). Remedy: {guard.remedy}; to go on regardless: ppo.guards_off: [{guard.name}]"
        return Finding(guard.name, text, count == guard.stops)

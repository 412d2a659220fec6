"""Student's t and normal quantiles for real degrees of freedom, without scipy.

The distribution is the regularised incomplete beta function (Abramowitz and Stegun 26.7.1), by
its continued fraction (26.5.8) in the form of Lentz and Thompson; quantiles invert it by Newton
steps, from 10,000 degrees of freedom on by the expansion in 1/df (26.7.5).
"""

import math
from functools import lru_cache
from statistics import NormalDist

NORMAL = NormalDist()
LARGE_DF = 1e4  # from here the first four terms in 1/df are exact to 1e-12 up to |z| = 6
_TINY = 1e-300  # keeps the continued fraction away from a division by zero
_EPSILON = 1e-15
_MAX_TERMS = 100_000  # the fraction needs about sqrt(df) terms
_MAX_STEPS = 60
_ENDLESS_DF = 1e60  # the normal distribution; its fourth power is still a float


def normal_quantile(probability: float) -> float:
    """Standard normal quantile for a probability in (0, 1)."""
    return NORMAL.inv_cdf(probability)


def t_upper_tail(t: float, df: float) -> float:
    """P(T > t) for df > 0; the relative error stays small far out in the tail."""
    if t < 0:
        return 1.0 - t_upper_tail(-t, df)
    ratio = t * t / df
    share = 1.0 / (1.0 + ratio)
    half = df / 2.0
    if share < (half + 1.0) / (half + 2.5):
        return 0.5 * _beta_power(ratio, half) / half * _beta_fraction(share, half, 0.5)
    rest = ratio / (1.0 + ratio)
    return 0.5 - _beta_power(ratio, half) * _beta_fraction(rest, 0.5, half)


def t_cdf(t: float, df: float) -> float:
    """P(T <= t) for df > 0."""
    return t_upper_tail(-t, df) if t < 0 else 1.0 - t_upper_tail(t, df)


def t_quantile(probability: float, df: float) -> float:
    """The t with P(T <= t) = probability, for a probability in (0, 1) and df > 0."""
    if not 0.0 < probability < 1.0 or not df > 0.0:
        raise ValueError(f"need 0 < probability < 1 and df > 0, received {probability} and {df}")
    if probability > 0.5:
        return _upper_quantile(1.0 - probability, df)
    return 0.0 if probability == 0.5 else -_upper_quantile(probability, df)


def t_critical(level: float, df: float) -> float:
    """The t with P(|T| > t) = level: half of a two-sided interval, in standard errors."""
    return -t_quantile(level / 2.0, df)


@lru_cache(maxsize=4096)
def _upper_quantile(tail: float, df: float) -> float:
    """The t > 0 with P(T > t) = tail, tail in (0, 0.5).

    Newton on log P over log t: it is concave there, so that from the second step on the root is
    approached from the right alone.
    """
    start = _expansion(-normal_quantile(tail), min(max(df, 1.0), _ENDLESS_DF))
    if df >= LARGE_DF:
        return start
    t = start
    for _ in range(_MAX_STEPS):
        upper = t_upper_tail(t, df)
        step = math.log(upper / tail) * upper / (t * _density(t, df))
        t *= math.exp(max(-2.0, min(2.0, step)))
        if abs(step) < 1e-14:
            break
    return t


def _expansion(z: float, df: float) -> float:
    """Cornish and Fisher's t from a normal z (Abramowitz and Stegun 26.7.5)."""
    s = z * z
    terms = (
        (s + 1.0) / 4.0,
        ((5.0 * s + 16.0) * s + 3.0) / 96.0,
        (((3.0 * s + 19.0) * s + 17.0) * s - 15.0) / 384.0,
        ((((79.0 * s + 776.0) * s + 1482.0) * s - 1920.0) * s - 945.0) / 92160.0,
    )
    return z + z * sum(term / df ** (k + 1) for k, term in enumerate(terms))


def _density(t: float, df: float) -> float:
    log_power = -(df + 1.0) / 2.0 * math.log1p(t * t / df)
    return math.exp(_log_gamma_ratio(df / 2.0) + log_power) / math.sqrt(df * math.pi)


def _beta_power(ratio: float, half: float) -> float:
    """x^a (1-x)^(1/2) / B(a, 1/2) at x = 1/(1+ratio), a = half."""
    log_x = -math.log1p(ratio)
    log_power = _log_gamma_ratio(half) + half * log_x
    return math.exp(log_power) * math.sqrt(ratio / (1.0 + ratio) / math.pi)


def _log_gamma_ratio(a: float) -> float:
    """log(Gamma(a + 1/2) / Gamma(a)); by its series where two logarithms would cancel."""
    if a < 20.0:
        return math.lgamma(a + 0.5) - math.lgamma(a)
    u = 1.0 / (a * a)
    series = -1 / 8 + u * (1 / 192 + u * (-1 / 640 + u * (17 / 14336 - u * 31 / 18432)))
    return 0.5 * math.log(a) + series / a


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Continued fraction of the incomplete beta function; converges fast for x < (a+1)/(a+b+2)."""
    c = 1.0
    d = 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _MAX_TERMS):
        even = a + 2.0 * m
        change = 1.0
        for term in (
            m * (b - m) * x / ((even - 1.0) * even),
            -(a + m) * (a + b + m) * x / (even * (even + 1.0)),
        ):
            d = 1.0 / _away_from_zero(1.0 + term * d)
            c = _away_from_zero(1.0 + term / c)
            change = d * c
            value *= change
        if abs(change - 1.0) < _EPSILON:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY

"""How the next token is chosen: processors and filters of logits, and the draw."""

from jaxrl_tok.samplers.adaptive_temperature import adaptive_temperature, token_temperature
from jaxrl_tok.samplers.adaptive_temperature import next_token_entropy as next_token_entropy
from jaxrl_tok.samplers.bad_tokens import bad_tokens
from jaxrl_tok.samplers.budget import budget
from jaxrl_tok.samplers.cyclic_reflex import cyclic_reflex
from jaxrl_tok.samplers.draw import draw as draw
from jaxrl_tok.samplers.draw import sampled_entropy as sampled_entropy
from jaxrl_tok.samplers.left_out import left_out as left_out
from jaxrl_tok.samplers.min_p import min_p
from jaxrl_tok.samplers.min_tokens import min_tokens
from jaxrl_tok.samplers.temperature import temperature
from jaxrl_tok.samplers.token_bias import token_bias
from jaxrl_tok.samplers.top_k import top_k
from jaxrl_tok.samplers.top_p import top_p

SAMPLERS = {f.__name__: f for f in (temperature, top_k, top_p, min_p)}

# What may come before them, in this order: a temperature is by the entropy of the policy's own logits, and what is
# forced is forced even where it is banned.
PROCESSORS = {f.__name__: f for f in (adaptive_temperature, token_bias, cyclic_reflex, bad_tokens, min_tokens, budget)}

# What a recipe's `sampler` can be: f(entropy, temperature, scale, *, hyperparameters) -> the temperature of each token.
TEMPERATURES = {"adaptive_temperature": token_temperature}

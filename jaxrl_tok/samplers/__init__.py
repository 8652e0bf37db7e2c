"""How the next token is chosen: filters of logits, and the draw."""

from jaxrl_tok.samplers.draw import draw as draw
from jaxrl_tok.samplers.min_p import min_p
from jaxrl_tok.samplers.temperature import temperature
from jaxrl_tok.samplers.top_k import top_k
from jaxrl_tok.samplers.top_p import top_p

SAMPLERS = {f.__name__: f for f in (temperature, top_k, top_p, min_p)}

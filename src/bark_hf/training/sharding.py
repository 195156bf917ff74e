"""FSDP: what a network needs before its weights are shared out over processes, and how they are brought together.

Knows nothing of data, of the Trainer or of files."""

from torch import Tensor, nn

from ..modeling_bark import BarkFineModel


def make_shardable(network: nn.Module) -> None:
    """The fine stage's tables are its heads, too, and a step leaves some of them alone.

    accelerate would shard the tables by themselves and part them from the heads: without a name for them they stay
    together, in the outermost group. And processes that have gradients of other tables cannot add them up: with a
    share of 0 in the output all tables have some."""
    if isinstance(network, BarkFineModel):
        network.input_embeds_layers.register_forward_hook(_with_all_tables)
        network.__dict__["get_input_embeddings"] = lambda: None


def _with_all_tables(tables, given, output: Tensor) -> Tensor:
    return output + 0 * sum(table.weight[0, 0] for table in tables)


def gather(sharded: nn.Module, whole: nn.Module) -> None:
    """Copies a sharded network's weights into one of the same kind; all processes must take part, each gets them."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole.load_state_dict(get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True)))

"""A model of one's own from nothing: its tokenizer, trained on text, and an untrained BLOOM."""

from collections.abc import Iterable

from ia_lib.data import languages
from ia_lib.instructions import templates


def train_tokenizer(texts: list[str], vocabulary: int):
    """A byte-level BPE tokenizer trained on `texts`, which has <s>, </s> and <pad> and, like BLOOM's, adds none of them
    to a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    given = {"special_tokens": ["<s>", "</s>", "<pad>"], "initial_alphabet": sorted(tokenizer.pre_tokenizer.alphabet())}
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False, **given)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def tokenizer_texts(pool, parallel, passages: Iterable[str] = ()) -> list[str]:
    """What the tokenizer is trained on: the old instructions (a dataset), the words of all templates, and the parallel
    text and `passages` in all their languages, because a multilingual model's tokenizer has seen those that the model
    does not know."""
    prompts = [template for kind in templates.ANSWER_SLOTS for template in templates.templates(kind)]
    words = " ".join([*prompts, *languages.NAMES.values()])
    codes = [column for column in parallel.column_names if column != "sentence_id"]
    past = [prompt + answer for prompt, answer in zip(pool["prompt"], pool["answer"], strict=True)]
    # as often as the rarer words of the text, or the templates of later runs would be read letter by letter
    return past + [words] * 100 + [text for code in codes for text in parallel[code]] + [*passages]


def new_model(vocabulary: int, seed: int, *, hidden: int, layers: int, heads: int):
    """An untrained BLOOM of `hidden` dimensions, with tied embeddings and its weights drawn from `seed`."""
    import torch
    from transformers import BloomConfig, BloomForCausalLM

    sizes = {"vocab_size": vocabulary, "hidden_size": hidden, "n_layer": layers, "n_head": heads}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = BloomConfig(**sizes, **special, attention_dropout=0.0, hidden_dropout=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BloomForCausalLM(config)

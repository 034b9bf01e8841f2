"""Chat templates in the shapes of current model families, and what they must write.

Written for these tests: the families' turns, special tokens and switches, without tools and pictures.
"""

from typing import NamedTuple


class Chat(NamedTuple):
    """A template, and what it writes before a prompt, between it and its answer, and at the end of the answer when
    the model shall not think."""

    template: str
    before: str
    between: str
    end: str


_QWEN = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

_GEMMA = """
{%- for message in messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Conversation roles must alternate') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' }}
    {{- message['content'] | trim }}{{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}"""
_GEMMA_TEXT = ("<s><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>")

_LLAMA = """
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
_LLAMA_USER = "<|start_header_id|>user<|end_header_id|>\n\n"
_LLAMA_ASSISTANT = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"

CHATS = {
    # a default system turn
    "qwen2.5": Chat(
        """
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}"""
        + _QWEN,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    # a thinking block before the last answer, empty in what the model is given if it shall not think
    "qwen3": Chat(
        """
{%- for message in messages %}
    {%- set content = message.content %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1] %}
        {%- endif %}
        {%- if loop.last %}
            {{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
        {%- endif %}
        {%- set content = content.lstrip('\\n') %}
    {%- endif %}
    {{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|im_end|>",
    ),
    # no system turn at all; the assistant is called model
    "gemma2": Chat(
        """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {{ raise_exception('System role not supported') }}
{%- endif -%}"""
        + _GEMMA,
        *_GEMMA_TEXT,
    ),
    # a system turn becomes the beginning of the user's
    "gemma3": Chat(
        """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}"""
        + _GEMMA,
        *_GEMMA_TEXT,
    ),
    # the mark of not thinking stands only in what the model is given
    "gemma4": Chat(
        """{{ bos_token }}
{%- for message in messages -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<|turn>' + role + '\\n' }}
    {{- message['content'] | trim }}{{ '<turn|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<|turn>model\\n' }}
    {%- if not enable_thinking | default(false) -%}
        {{ '<|channel>thought\\n<channel|>' }}
    {%- endif -%}
{%- endif -%}""",
        "<s><|turn>user\n",
        "<turn|>\n<|turn>model\n<|channel>thought\n<channel|>",
        "<turn|>",
    ),
    # a system turn with the date of the day, unless the template is told one
    "llama3": Chat(
        """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n<|eot_id|>' }}"""
        + _LLAMA,
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>" + _LLAMA_USER,
        _LLAMA_ASSISTANT,
        "<|eot_id|>",
    ),
    # a system turn with the date and what kind of thinking is asked for; an empty block where none is
    "smollm3": Chat(
        """
{%- set mode = '/think' if enable_thinking | default(true) else '/no_think' %}
{{- '<|im_start|>system\\nToday Date: ' + strftime_now('%d %B %Y') + '\\nReasoning Mode: ' + mode + '<|im_end|>\\n' }}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and mode == '/no_think' %}
        {%- set content = '<think>\\n\\n</think>\\n' + content.lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if mode == '/no_think' %}
        {{- '<think>\\n\\n</think>\\n' }}
    {%- endif %}
{%- endif %}""",
        "<|im_start|>system\nToday Date: 26 Jul 2024\nReasoning Mode: /no_think<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n",
        "<|im_end|>",
    ),
    # a default system turn in more words, the role of each turn as it is given
    "sailor2": Chat(
        """
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nYou are an AI assistant called Sailor2.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}""",
        "<|im_start|>system\nYou are an AI assistant called Sailor2.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    # a Llama that thinks by default, with a switch of its own
    "sea-lion": Chat(
        "{{- bos_token }}"
        + _LLAMA
        + """
{%- if add_generation_prompt and thinking_mode | default('on') == 'on' %}
    {{- '<think>\\n' }}
{%- endif %}""",
        "<s>" + _LLAMA_USER,
        _LLAMA_ASSISTANT,
        "<|eot_id|>",
    ),
}
TOKENS = [
    *("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|turn>", "<turn|>", "<|channel>"),
    *("<channel|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
]

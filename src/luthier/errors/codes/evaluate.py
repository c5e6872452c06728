"""Codes of the family E-EVAL: asking a model, running what it writes, comparing."""

from luthier.errors.codes.base import Explanation

EVALUATE: dict[str, Explanation] = {
    "E-EVAL-001": Explanation(
        title="nothing here can hold a model's code",
        why="code that nobody has read could read your files, use your network or fill your disk",
        text=(
            "Programs that a model wrote run in a sandbox that Luthier builds from what the kernel offers: user "
            "namespaces, Landlock and seccomp on Linux, sandbox-exec on macOS. Eight attempts to get out are made at "
            "every start, and here no form of the sandbox stopped them all; the message says what each one lacks. "
            "Docker refuses user namespaces by default (start it with --security-opt seccomp=unconfined), Ubuntu 24.04 "
            "does so too (sysctl kernel.apparmor_restrict_unprivileged_userns=0), and Landlock needs Linux 5.13. In a "
            "machine that holds nothing of value, --unsafe-local-execution runs programs with limits only."
        ),
    ),
    "E-EVAL-002": Explanation(
        title="the sandbox does not start any more",
        why="programs without a verdict would count as wrong, and the score would be of the machine, not of the model",
        text=(
            "The sandbox held at the start, its server ended later, and a new one does not come up. Usually the "
            "machine has run out of memory, processes or user namespaces. Free some and run the same command again."
        ),
    ),
    "E-EVAL-020": Explanation(
        title="a prompt is longer than the model can read",
        why="a model has never seen positions beyond its context, and what it writes there means nothing",
        text=(
            "Every model has a longest text that it can read at once, max_position_embeddings in its config.json; "
            "prompt and answer share it. Ask with less text. In a chat the earlier turns count too: /reset starts "
            "over."
        ),
    ),
    "E-EVAL-021": Explanation(
        title="the tasks cannot be read",
        why="a comparison needs questions whose answers can be checked",
        text=(
            "Tasks are sets (`quickstart`, `mbpp`, `humaneval`, with a split `mbpp:validation` and a file "
            "`mbpp=mbpp.jsonl` where you like), or a file of yours with one JSON object a line, each with an "
            "`instruction` or `prompt` (what to ask), and `tests` (a list of assert statements that the answer must "
            "pass) or `answer` (the text that it must be). Check the path, and that the file is UTF-8 text and not "
            "empty; a file named .gz is unpacked."
        ),
    ),
    "E-EVAL-022": Explanation(
        title="a task is wrong",
        why="a question without a sound test would count as passed or failed for the wrong reason",
        text=(
            "A line of your tasks file is not a JSON object with `instruction` (text) and either `tests` (a list of "
            "assert statements in Python, at least one) or `answer` (a text, or a list of texts of which any counts; "
            "`match` says how it is compared: exact, contains, number or regex). A pattern that cannot be read, takes "
            "more than two seconds or is found in an empty answer is refused. `system`, `task_id` (each only once), "
            "`split`, `entry_point` and `output` may be there too. A context such as alpaca's `input` is part of the "
            "question: write it into the instruction. "
            "The message names the line and what is wrong with it."
        ),
    ),
    "E-EVAL-023": Explanation(
        title="there is no base model to compare with",
        why="whether fine-tuning helped can only be said beside the model that it started from",
        text=(
            "A run names its base model in final_model/. This one was trained from scratch, so there is none, or it "
            "was fine-tuned in full by a version that did not write the name down. Give the folder or the hub name of "
            "the base model with --base."
        ),
    ),
    "E-EVAL-024": Explanation(
        title="a published set of tasks is not on this machine",
        why="HumanEval and MBPP belong to others, so they do not come with Luthier",
        text=(
            "The set is neither in the cache of `datasets` nor to be had from the hub now. Download its file once "
            "(the message says from where) and name it: --tasks mbpp=mbpp.jsonl, or "
            "--tasks humaneval=HumanEval.jsonl.gz. The set `quickstart` comes with Luthier."
        ),
    ),
    "E-EVAL-025": Explanation(
        title="two models that do not read the same tokens",
        why="one prompt in two vocabularies is two prompts, and the comparison would be of them",
        text=(
            "Base and tuned model get the same token ids, so that nothing but the weights differs. The tokenizer of "
            "this base does not give the same ids as the tuned model's. Give the base that the model was trained from; "
            "or measure each by itself with `luthier evaluate`."
        ),
    ),
    "E-EVAL-026": Explanation(
        title="what is asked for cannot be estimated",
        why="pass@k is estimated from at least k different answers to each task",
        text=(
            "Greedy answers are the same each time, so several of them need a temperature above 0; and pass@k needs at "
            "least k answers: --samples 20 --temperature 0.8 --k 1,10."
        ),
    ),
    "E-EVAL-027": Explanation(
        title="a model cannot be asked in this way",
        why="a template that a model was not trained with is words it has never seen",
        text=(
            "Chat templates come with tuned models; most base models have none and are asked with a text that they go "
            "on from (--prompt completion, which is what --prompt auto does here). There is no way besides these three."
        ),
    ),
    "E-EVAL-028": Explanation(
        title="the general text cannot be read",
        why="what a model has forgotten is seen on text that is not about the task",
        text=(
            "--forgetting takes a file of UTF-8 text, with empty lines between its passages. Without the option a text "
            "that comes with Luthier is read; --forgetting none reads none."
        ),
    ),
    "E-EVAL-029": Explanation(
        title="the template has no place for a system message",
        why="words that the model is not given would seem to have been asked",
        text=(
            "--system, or `system` in a task, puts a system message before the first question, as rows of messages "
            "with one are trained. The "
            "run's chat template refuses such messages or leaves them out, or the run was trained on texts as they "
            "are. Write what it should say into the question."
        ),
    ),
    "E-EVAL-030": Explanation(
        title="patterns cannot be tried here",
        why="a pattern may take for ever on a text that nobody foresaw, so none is tried where it could not be ended",
        text=(
            "Tasks with `match: regex` are judged in a process of its own, with little time and memory for an answer. "
            "It did not start, or ended without a verdict; the message says what it said last. Usually memory or "
            "processes are short: free some and run the same command again. Answers are kept."
        ),
    ),
    "E-EVAL-031": Explanation(
        title="these answers make no pairs",
        why="a pair is an answer that passed and one that failed, to one task, by one model",
        text=(
            "--pairs needs several different answers to each task, asked for in the model's chat template: --samples 8 "
            "--temperature 0.8. Where a task's answers all pass, or all fail, there is no pair in it: take more "
            "samples, a higher temperature, or other tasks. Answers are kept, and more samples ask only for the new "
            "ones. Never take tasks that you measure on afterwards."
        ),
    ),
}

"""Every text about data that a person reads, in one place: what stopped a run, what was put right, what was dropped.

Row problems say what was found and what was wanted; the file and line stand before them. Each constant is a template
for `str.format`.
"""

# --- forms and columns: the run stops ---------------------------------------------------------------------------

PREFERENCES = """
  pairs         chosen + rejected, with prompt (instruction, question) or with it inside: messages, HH-RLHF transcripts
  trees         prompt with nested replies and ranks (Open Assistant); or message_id, parent_id, text, role, rank
  comparisons   prompt + response_a + response_b (or response1, answer_0, ...) + winner, or annotator1, annotator2, ...
  lists         prompt + responses + ranks or scores; responses with a rank or score each; or ranking, the best first
  labels        prompt + completion + label (true or false)
  ratings       prompt + completion + rating
  judgements    a labelling project (labels/<name>), or its export: annotator, item, answers, texts, ranks"""
DEMONSTRATIONS = """
  prompt + completion (or instruction, input and output; question and answer); messages or conversations (ShareGPT);
  text (HH-RLHF transcripts); any form of preferences, of which the best answer is taken"""
PROMPTS = """
  prompt (or instruction, question); messages or conversations; text; any form of preferences"""
NO_FORM = "{name}: no {use}{asked}: {missing}found the columns {columns}. Forms this kit reads:{forms}\n{advice}"
RENAME = "Name your columns in the config: data.columns: {{{columns}}}."
RENAME_YOURS = (
    "Name your columns in the config, the kit's name first, e.g. data.columns: {chosen: winner, rejected: loser}; "
    "or write the rows in one of these forms."
)
RENAME_RATING = (
    "Columns of numbers are {numbers}: say which is the rating, e.g. data.columns: {{rating: {first}}} (the highest is "
    "best; data.best_value: lowest turns it round)."
)
RENAME_ORDERED = (
    "The answers in {answers} have no ranks or scores. If they stand in order, the best first, say so: data.columns: "
    "{{ranking: {answers}}}."
)
NO_RATINGS = (
    "{column} holds {values}, ...: write a rating as a number, or a label as true or false (1 or 0, up or down)."
)
RENAME_INSIDE = (
    "The answers in {answers} hold {keys}. Say which is a score or rank, e.g. data.columns: {{score: quality}}; or, if "
    "they stand in order, the best first: data.columns: {{ranking: {answers}}}."
)
TWO_FORMS = (
    "{name}: more than one form of preferences fits the columns {columns}:\n{fitting}\n"
    "Name the one that is meant: data.format: {first} (or `format` beside the `path` of the source)."
)
PLAIN_TEXT = (
    "{name}: the column 'text' holds plain text, which does not say where the prompt ends and the answer begins, so no "
    "chat template fits it. Split it into the columns prompt and completion."
)
COLUMN_NOT_FOUND = "{name}: data.columns names {theirs!r} as {ours}, but the columns are {columns}{hint}."
COLUMNS_UNUSED = "data.columns: no source has the column(s) {columns}."
COLUMN_UNKNOWN_NAME = (
    "{name}: data.columns has {ours!r}, which is no column this kit knows{hint} (on the left stands the kit's name, on "
    "the right yours, e.g. chosen: winner)"
)
COLUMN_SWAPPED = "; perhaps the other way round, {theirs}: {ours}"
COLUMN_TWICE = (
    "{name}: data.columns reads {theirs!r} as {ours}, but there is a column {ours!r} too; rename one in the file."
)
NO_PAIR_LEFT = "{name}: {rows:,} rows give no pair of a better and a worse answer:\n{why}\n{advice}"
ONE_ANSWER_ONLY = (
    "Pairs need two answers to one prompt; here every prompt has one. Use the rows as data.demonstrations, or give "
    "more answers a prompt."
)
ALL_SKIPPED = "Whoever judged skipped: rank some items first."
ALL_EQUAL = "All values are equal, so nothing is preferred: is this the right column?"
ONE_SIDE_ONLY = "Pairs need a liked and a disliked answer to one prompt, word for word; no prompt here has both."
SEE_DROPS = "Look at what was dropped, and at the rows."
WEIGHTS_OF_SOME = (
    "{setting}: {some} of {all} sources have a weight. Give every source one, or none: without weights all rows count "
    "the same."
)

# --- sources and files: the run stops ----------------------------------------------------------------------------

NOBODY_YET = "{name}: nobody has judged anything yet, so there is nothing to {use}. Rank first: `kit label {path}`."
NO_PROJECT = (
    "{setting}: no such labelling project: {text}; {found}. Make one with `kit sample RUN --prompts prompts.jsonl`."
)
NO_SOURCE = "{setting}: found {found}; a path, a hub id, a Dataset or a list of rows (dict) is wanted."
NO_SUCH_SOURCE = "{setting}: {why}"
NO_OPTIONS = "{text}: {options} cannot be chosen for a local source; remove it from the config."
NOTHING_TO_LEARN_FROM = (
    "data.preferences is null: nothing to learn from. Name a file, a hub id, rows in memory or `demo`; for SFT "
    "alone, name data.demonstrations."
)
ALL_HELD_OUT = (
    "data.{name}: every prompt of it is held out by the split of the other sources, none is left to train on. "
    "Use more prompts, a smaller data.eval_fraction or another seed."
)
NO_SPLIT = "{name}: no split {wanted!r}; found {found}. Name one of them as `split`."
NO_SPLITS = "{name}: this is one data set without splits, so `split: {split}` names nothing; remove it."
SPLIT_READ = "{name}: read the split {split}; not {others} (`split` beside the `path` names another)"
COLUMNS_READ = "{name}: one JSON object of columns ({columns}), read row by row"
ROWS_BY_NAME = "{name}: one JSON object of rows by name ({first}, ...), read row by row"
SEVERAL_OBJECTS = (
    "{name}: JSON objects that go over several lines follow each other. Write one object a line (`jq -c . {name} > "
    "rows.jsonl`), or all of them in one list."
)
LFS_POINTER = "{name}: not the data but a Git LFS pointer to them; fetch them with `git lfs pull`."
WEB_PAGE = "{name}: a web page, not data: the address it was downloaded from may need another link or a sign-in."
NO_DATASET_FOLDER = (
    "{path}: a folder that holds no saved dataset; found {found}. Name a data file in it, or a folder written by "
    "Dataset.save_to_disk."
)
DAMAGED_FOLDER = "{path}: a damaged dataset folder ({why}); save it again."
HUB_UNREACHABLE = (
    "{repo}: the hub cannot be reached, and this data set is not in the local cache; nor is there such a file or "
    "folder here. Check the connection, or name a local file."
)
HUB_LOADING_FAILED = "{repo}: the hub has it, but loading failed: {why}. Check `name` (configuration) and `split`."
HUB_OTHER_REVISION = (
    "{repo}: the hub cannot be reached, and the cached copy cannot be shown to be revision {revision!r}. Connect "
    "once, or give the full commit hash that was cached."
)
NO_HUB_ID = "{repo}: neither a file nor a valid hub id (org/name): {why}"
HUB_GATED = (
    "{repo}: a gated data set. Accept its terms at https://huggingface.co/datasets/{repo}, then sign in with `hf "
    "auth login`."
)
HUB_NO_REVISION = "{repo}: the hub knows this data set, but no revision {revision!r}."
HUB_UNKNOWN = (
    "{repo}: the hub knows no such data set, and there is no such file or folder here. Check the spelling; if it "
    "is private, sign in with `hf auth login`."
)
HUB_REFUSED = (
    "{repo}: the hub refused the sign-in (HTTP {status}): the token is wrong, expired or may not read this. Run "
    "`hf auth login`, or unset HF_TOKEN."
)
HUB_ANSWERED = "{repo}: the hub answered HTTP {status}: {why}"
PROBLEMS = "{name}: {problems}{shown}:\n{listed}\n{advice}"
NEAR_FILES = "no such file: {text}; did you mean {near}?"
NO_FOLDER = "no such file: {text}; the folder {folder} does not exist either (looked from {here})."
NO_FILE = "no such file: {text} (looked in {folder}). A hub data set is written org/name."
UNREADABLE = "{path}: cannot be read: {error}."
EMPTY_FILE = "{path}: the file is empty; at least one row is wanted."
NO_ROWS = "{name}: 0 rows; at least one is wanted."
WRAPPED = "{path}: this is {what}; unpack it, or save it as JSON Lines, CSV or Parquet."
DAMAGED_GZIP = "{name}: the gzip archive is damaged ({error}); fetch or write it again."
DAMAGED_ARROW = "{name}: a damaged {kind} file ({error}); write it again."
DAMAGED_JSON = "{where}: no JSON ({why}): {text}. Correct the file there."
UNREAD_JSON = "{name}: no JSON this kit reads ({error})."
NOT_UTF8 = (
    "{name}: not UTF-8: byte 0x{byte:02x} at byte offset {offset:,}; perhaps {guess}. "
    "Convert it: iconv -f {guess} -t UTF-8 {name} > utf8-{name}"
)
NUL_BYTE = "{name}:{line}: holds a NUL byte: a binary file, or a damaged one. Write it again as text."
UTF16 = "{name}: not UTF-8: it looks like {guess}. Convert it: iconv -f {guess} -t UTF-8 {name} > utf8-{name}"
LONG_ROW = "{where}: a row of over {mib} MiB, which is the most this kit reads. Is it data? Write a row a line."
LONG_WHOLE = (
    "{name}: its first line is no row of JSON Lines, and as one JSON object it has over {mib} MiB. Write a row a line."
)
BLANK_LINES = "{where}: over {lines:,} blank lines in a row. Is it data?"
BOMB = "{name}: the archive unpacks to over {times} times its size, as no text does. If it is yours, unpack it first."
NO_ROOM_FOR_ROWS = (
    "{folder}: {error}. The rows of the data lie there while they are used, in files of about their size. Make room, "
    "or set the environment variable TMPDIR to a folder on another disk."
)
NO_MEMORY = "{name}: the memory of this machine does not hold its rows. Use fewer of them."
CHANGED = "{name}: the file was changed while it was read. Run again when it is whole."
NO_PLAIN_FILE = "{path}: {what}, not a plain file. Write the rows into a file, and name that."
COLUMN_STANDS_TWICE = "{where}: the column(s) {columns} stand twice; every name must be unique."

# --- rows: each is listed, then the run stops --------------------------------------------------------------------

MORE_AFTER_LIST = "more text follows the end of the list; one list is wanted, or a row a line"
NAME_TWICE = "the name {name!r} stands twice in an object"
OPEN_CELL = "no CSV: the quote of a cell that opens in this row is not closed before the file's end, or for {mib} MiB"
NUL_IN_TEXT = "{what} holds a NUL character, which no text does; remove it"
NO_TEXT_VALUE = "{what} is {found}, text is wanted"
SURROGATE = "{what} holds half of a surrogate pair, which no tokenizer reads; write the character whole"
NO_MESSAGES = "{what} is {found}, a list of messages is wanted"
NO_MESSAGE_AT_ALL = "{what} is an empty list, at least one message is wanted"
NO_ONE_ANSWER = "{what} holds turns of {roles}, one of the assistant is wanted"
NO_RESPONSE = "{what} is {found}, text or a list of one assistant message is wanted"
NO_MESSAGE_OBJECT = "{what} is {found}, an object with role and content is wanted"
MESSAGE_KEYS = "{what} has the keys {found}, role and content are wanted"
UNKNOWN_TURN_ROLE = "{what} has the unknown role {found!r}; known are {roles} and {aliases}"
SYSTEM_LATE = "{what} has a system turn after the first turn"
ASSISTANT_FIRST = "{what} opens with the assistant, a user turn is wanted first"
NAMES_ALONE = (
    "texts is missing: the answers stand here by name alone, and names teach nothing; export the project again with "
    "`kit label export`"
)
CORRECT_ROWS = "Correct or remove these rows, or let the kit leave out so many: data.skip_bad_rows."
NO_JSON = "no JSON ({why}): {text}"
ROW_NO_OBJECT = "the row is {found}, an object with named values is wanted"
WRONG_CELLS = "{found} cells, {wanted} are wanted (quote cells that hold commas)"
NO_CSV = "no CSV ({error}); quote cells, and double the quotes inside them"
NO_MESSAGES_CELL = "a cell looks like a list of messages but is no JSON: {text}"
NO_CELL = "no {name!r}; found {found}"
NEGATIVE_MARGIN = "margin is {found:g}; by how much the chosen answer is better cannot be less than 0"
NO_NUMBER = "{what} is {found}, a number is wanted"
NO_LIST = "{name} is {found}, a list is wanted"
NO_LABEL = "{what} is {found}; true or false (1 or 0, up or down, like or dislike) is wanted"
NO_VERDICT = "{what} is {found}, {wanted} is wanted"
NO_TEXT_PART = "{what} is {found}; of a message in parts only parts of text can be read"
NO_ONE_HOT = "exactly one of the columns of the winner must be 1, the others 0; found {found}"
TURNS_DIFFER = "{prompt} holds {n} turns but {answer} {m}; each turn needs an answer"
UNCLEAR_VERDICT = (
    "{what} is 0 or 1, which does not say whether 1 means {first} or the other answer; write a or b, or 1, 2 and 0 for "
    "a tie"
)
NO_TEXT = "{what} has the keys {found}; its text is wanted under one of {known}"
NO_HISTORY = "history[{index}] is {found}, a list of a question and an answer is wanted"
LENGTHS_DIFFER = "{answers} holds {n} answers but {column} {m} values; one for each is wanted (null for none)"
NO_INDEX = "{column} is {found}, the index of an answer is wanted, 0 to {n}"
UNKNOWN_ID = "{column} names {name}, which is none of the answers {known}"
UNCLEAR_ORDER = "{column} does not say whether its numbers count the answers from 0 or from 1; give all, or use ids"
ID_TWICE = "{column} names {name} twice"
NO_TREE = "prompt is {found}, an object with text and replies is wanted"
NO_MESSAGE = "{what} is {found}, a message with text and replies is wanted"
NO_MESSAGE_ID = "message_id is {found}, text is wanted"
MESSAGE_TWICE = "the message_id stands at {where} too"
NO_ROLE = "the role of {what} is {found}, text is wanted"
UNKNOWN_ROLE = "the role of {what} is {found!r}; known are {known}"
NO_USER_LAST = "{what} ends with the turn of the {role}, a user turn is wanted"
NO_ASSISTANT_LAST = "{what} ends with the turn of the {role}, an assistant turn is wanted"
NO_USER_TURN = "the conversation holds no user turn"
PROMPT_ELSEWHERE = "chosen and rejected are whole conversations, but the prompt does not stand in them"

# --- rows: dropped and counted -----------------------------------------------------------------------------------

ENDS_WITH_HUMAN = "a transcript ends with the human"
NO_COMMON_BEGINNING = "chosen and rejected have no common beginning to take as the prompt"
PART_EARLY = "chosen and rejected part before the last turn"
NO_TRANSCRIPT = "not a transcript from Human: to Assistant:"
SPEAKER_TWICE = "a speaker has two turns in a row in the transcript"
EMPTY_TURN = "a turn of the prompt is empty"
NOBODY_JUDGED = "nobody judged the answers"
EMPTY_TEXT = "a text is empty"
EMPTY_ANSWER = "{names} empty"
EQUAL = "chosen equals rejected"
DUPLICATE = "exact duplicates"
DROPPED = "dropped {count:,} row{s}: {reason} (first: {first})"
TOO_MANY_DROPPED = (
    "{name}: {lost:,} of {all:,} rows cannot be used, {left}:\n{counts}\n"
    "Look at the rows named here: the columns may be swapped, or hold something else than was recognised."
)
TOO_MANY_OF_A_KIND = (
    "{name}: {count:,} of {all:,} rows ({share:.1%}): {reason}; more than {limit:.0%} stops a run. "
    "Correct or remove these rows: {places}"
)
TOO_MANY_BOTH_WAYS = (
    "{name}: {count:,} of {all:,} pairs ({share:.1%}) are judged the other way round by an earlier pair; more than "
    "{limit:.0%} stops a run, as such pairs say nothing. Say who judged (data.columns: {{annotator: ...}}), or set "
    "data.votes: majority. The first: {places}"
)
BAD_ROWS_SKIPPED = "{name}: skipped {count:,} bad row{s}, as data.skip_bad_rows: {allowed:,} allows (first: {first})"

# --- as tokens, by the model's tokenizer: dropped, shortened or cut, and counted; too much of it stops the run ----

COUNTED = "{what}: {count:,} of {all:,} {reason}"
SPECIAL_TOKEN = "dropped: the text holds a special token that the tokenizer cannot read as plain words"
SPECIAL_TOKEN_AS_WORDS = "kept: the text holds a special token of the tokenizer, read as the plain words it is"
SPECIAL_TOKEN_SAMPLED = "dropped: the prompt holds a special token of the tokenizer, which sampling would take for one"
LAST_TURN_TOO_LONG = "dropped: the last turn alone is over {limit} tokens"
SHORTENED = "shortened: oldest turns left out to fit {limit} tokens"
CUT = "cut: a response is over {limit} tokens, its end is not learnt"
EQUAL_AS_USED = "dropped: chosen equals rejected as far as they are used"
LAST_TURN_REWRITTEN = "dropped: the chat template leaves out or rewrites the last turn"
TURN_REWRITTEN = "changed: the chat template leaves out or rewrites {whose}"
ANSWER_REWRITTEN = "dropped: the chat template leaves out or rewrites words of an answer"
NOTHING_LEFT_OF_ANSWER = "dropped: nothing is left of an answer but the end of its turn"
OPENED_OTHERWISE = "changed: the template opens an answer otherwise than it writes it; as it opens it is learnt"
OTHER_TEMPLATE = ", or use a chat template that keeps the text"
NOT_GIVEN_BACK = (
    "{what}: the tokenizer does not give back {count:,} of the first {all:,} answers, first {where}: {text} becomes "
    "{read}"
)
OTHER_TOKENIZER = ". Use a base whose tokenizer knows this language"
NONE_LEFT = "no {what} left to train on ({why}). Raise data.max_prompt_tokens (now {limit})"
TEMPLATE_REFUSES = "{where}: the model's chat template refuses this row: {why}"
TOO_MANY_LONG_PROMPTS = (
    "{what}: {count:,} of {all:,} rows ({share:.1%}): the last turn alone is over {limit:,} tokens, so the row is "
    "dropped; more than {most:.0%} stops a run. 99 % of the prompts have at most {p99:,} tokens: raise "
    "data.max_prompt_tokens, or remove these rows: {places}"
)
TOO_MANY_CUT = (
    "{what}: {count:,} of {all:,} rows ({share:.1%}): a response is over {limit:,} tokens, so its end is not learnt; "
    "more than {most:.0%} stops a run. 99 % of the responses have at most {p99:,} tokens: raise "
    "data.max_response_tokens, or remove these rows: {places}"
)
TOO_MANY_EQUAL_AS_USED = (
    "{what}: {count:,} of {all:,} rows ({share:.1%}): chosen equals rejected in the first {limit:,} tokens, all that "
    "are used; more than {most:.0%} stops a run. 99 % of the responses have at most {p99:,} tokens: raise "
    "data.max_response_tokens, or remove these rows: {places}"
)
PROMPTS_MEET = (
    "{count:,} of {all:,} held-out prompts stand{s} in training too, once shortened to {limit:,} tokens "
    "(first: {first}); raise data.max_prompt_tokens"
)
LENGTH_TELLS = (
    "in {share:.0%} of {pairs:,} pairs the {which} answer is the chosen one: a reward model may learn length and "
    "nothing else"
)

# --- put right, or worth knowing: noted --------------------------------------------------------------------------

JUDGEMENTS = "judgements, one a row (rank 1 is best)"
PROJECT = "a labelling project"
JUDGED = "{name}: recognised as {form}; {rankings:,} {what} by {people:,} {who}, {prompts:,} prompts, {pairs:,} pairs"
REPEATS = "left out the second judgement of an item that was planted twice"
SKIPPED = "a person skipped an item"
CORRECTED = "left out a judgement that was corrected later"
UNFIT = "no answer of an item was acceptable to half of its people or more: its pairs teach, none is a demonstration"
RECOGNISED = "{name}: recognised as {form}; {count:,} {kind}"
EXPANDED = "{name}: recognised as {form}; {rows:,} rows, {prompts:,} prompts, {pairs:,} pairs"
BEST_ANSWERS = "the best answers of {form}"
THEIR_PROMPTS = "the prompts of {form}"
USED_CACHE = "{repo}: the hub cannot be reached; used the copy in the cache"
GUESSED_PROMPT = (
    "chosen and rejected texts (the prompt is guessed from their common beginning; better add a prompt column)"
)
ROLE_READ = "read the role {found!r} as {role!r}"
TURNS_MERGED = "merged neighbouring turns of one role"
LINE_ENDS = "read Windows line ends as plain ones in a transcript"
NUMBER_AS_TEXT = "read a number that is written as text in {what}"
BOOLEAN_AS_TEXT = "read true or false as the text of an answer in {what}"
SYSTEM_COLUMN = "took the column system as the system turn"
PARTS_JOINED = "joined the parts of text that a message consists of"
TIES = "a tie of two answers makes no pair"
NO_MARGINS = (
    "reward.margin is {margin:g}, and no pair of data.preferences says by how much its answer is better: that takes "
    "ratings, scores or a column `margin`. Set it to 0, or name the columns in data.columns"
)
SOME_MARGINS = (
    "reward.margin: {count:,} of {all:,} training pairs do not say by how much an answer is better; their margin is 0"
)
BELOW_MARGIN = "two answers less than {margin:g} apart make no pair (data.min_margin)"
EMPTY_ANSWER_LEFT_OUT = "left out an empty answer in a row"
UNJUDGED = "left out an answer that nobody ranked or rated"
LEFT_OUT = "left out a message that is deleted or failed its review, with all replies to it"
PARENT_MISSING = "left out a message whose parent is not in the file, with all replies to it"
NO_VOTE = "{column} did not judge a row"
VOTED_TWICE = "one person voted twice on a pair of answers; the last vote counts"
RATED_TWICE = "one person rated an answer twice; the last rating counts"
NO_MAJORITY = "the votes on a pair of answers have no majority; no pair"
AGREEMENT = "two votes on the same of {cases:,} pairs of answers agree in {share:.0%} of cases"
MAJORITY = "votes: the majority makes one pair; a tie is a vote too (data.votes: each keeps every vote)"
RELIABILITY = (
    "votes: weighed by how reliable each person is (a crowd Bradley-Terry model); of {pairs:,} pairs of answers "
    "{turned:,} go the other way than the majority, {opened:,} without a majority are settled, and {left:,} are left "
    "out as within {close:g} of even{low}"
)
ONE_JUDGE = "votes: {who} alone judged, so nobody's reliability can be told; every verdict counts the same"
NOBODY_NAMED = (
    "votes: no row says who judged, so nobody's reliability can be told; the rows count as without data.votes: "
    "reliability (name the column: data.columns: {annotator: ...})"
)
UNNAMED = "left out an opinion of nobody who is named (data.votes: reliability)"
EACH_VOTE = "votes: every vote is a pair (data.votes: majority makes one pair of them)"
STANDARDIZED = "ratings of {people:,} people, each less their mean and by their deviation"
MIXED_SCALES = (
    "ratings seem to have different scales: {low} goes to {low_top:g}, {high} to {high_top:g}; "
    "data.standardize_ratings: true puts each person's on one"
)
SIDE_BIAS = "the first of the two answers won {share:.0%} of {total:,} verdicts: were they shown in random order?"
BOTH_WAYS = (
    "{count:,} pair{s} of answers {are} judged both ways (first: {first}); all are kept (data.votes: majority settles "
    "them)"
)
SCORES_SAY_OPPOSITE = "score_chosen is below score_rejected: the columns may be swapped"
BALANCED = (
    "{name}: each of {prompts:,} prompts gives {each:,} training pairs, whatever its number of answers "
    "(data.prompt_weights: pairs takes every pair once)"
)
MIXED = "{setting}: mixed by weight: {parts}"
SIZES = "{name}: {train:,} to train on, {held_out:,} held out"

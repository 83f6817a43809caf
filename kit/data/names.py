"""Usual names of columns, by what they hold; the first name is the kit's own. `data.columns` maps others to them."""

PROMPTS = ("prompt", "instruction", "question", "query", "user_input")
ANSWER = ("completion", "response", "output", "answer", "reply")
ANSWERS = ("completions", "responses", "answers", "outputs", "candidates", "generations", "replies", "summaries")
MESSAGES = ("messages", "conversations", "conversation")  # the second is ShareGPT's
ANNOTATOR = (
    "annotator", "annotator_id", "annotator_name", "worker", "worker_id", "rater", "rater_id", "labeler", "judge_id",
)  # fmt: skip
ANSWER_STEMS = (  # of columns that are told apart by a mark: response_a, answer1
    "response", "answer", "output", "completion", "reply", "summary", "conversation", "candidate", "option",
    "generation", "human_ref", "text",
)  # fmt: skip
RANKS = ("ranks", "rank", "ranking", "rankings")
SCORES = ("scores", "score", "ratings", "rating", "rewards", "reward")
ORDERED = ("ranking", "ranked_responses", "ranked_answers", "ranked_completions", "ranked")
RATING = ("rating", "score", "stars", "overall", "grade", "reward", "label", "rank")
LABEL = ("label", "thumbs", "thumbs_up", "thumb", "feedback", "liked", "like", "upvoted", "is_good", "vote")
WINNER = (
    "winner", "preference", "preferred", "human_preference", "overall_preference", "choice", "better", "label",
    "labels", "vote", "verdict", "better_response_id", "judgment", "judgement", "winning_side", "result",
)  # fmt: skip
# What `data.columns` may name; two answers side by side have their marks, as in response_a, annotator1, score_b.
COLUMNS = frozenset(
    {
        "chosen",
        "rejected",
        "margin",
        "text",
        "input",
        "system",
        "history",
        "message_id",
        "parent_id",
        "role",
        "order",
        "id",
    }.union(PROMPTS, ANSWER, ANSWERS, MESSAGES, ANNOTATOR, RANKS, SCORES, ORDERED, RATING, LABEL, WINNER).union(
        f"{stem}{glue}{mark}"
        for stem in (*ANSWER_STEMS, "annotator", "rank", "rating", "score", "votes")
        for glue in ("", "_")
        for mark in "0123456789abcdefABCDEF"
    )
)

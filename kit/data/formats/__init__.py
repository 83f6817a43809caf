"""The forms rows come in, a file for each kind, and `recognise.py`, which tells them apart by their content.

judgements       what people said of items of a labelling project
pairs            chosen + rejected, with a prompt or with it inside, as texts, messages or HH-RLHF transcripts
trees            Open Assistant's: sibling replies with ranks
comparisons      two answers and who won: PandaLM, arena, votes of several people
lists            K answers with ranks or scores (UltraFeedback), or in order
labels, ratings  one answer a row, liked or not, or with a rating
demonstrations   prompt + completion, Alpaca, messages, ShareGPT; and bare prompts
"""

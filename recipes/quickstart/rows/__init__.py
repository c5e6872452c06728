"""The generator of the quickstart's instruction rows: families of tasks, their phrasings, tests and splits.

    areas (strings, lists, ...) --Family--> build --> train.jsonl, heldout.jsonl
                                              ^
            phrases (words), pools (names), asserts (tests), compose (pairs of operations)

To add a family, add one entry to the file of its area. Not covered: tokens; running what a model writes.
"""

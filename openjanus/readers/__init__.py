"""Readers of users' data: files of many formats as conversations, for both directions (floor 4).

    a folder of pictures        metadata.jsonl or metadata.csv (`file_name`, `text`), or cat.png beside cat.txt
    .jsonl, .json, .csv, .tsv   one record a line, or a list of records
    .tar                        WebDataset: cat.png with cat.txt or cat.json; `{000..123}.tar` as a folder of them
    .parquet                    one record a row, pictures inside
    hub:NAME                    a data set of the Hugging Face hub

A record says by its keys what it is (records.py). The role decides the eye: a picture in the assistant's turn is drawn.

    files ─► Row | Fault ─► Dataset: held-out split, order of each epoch ─► conversation
"""

"""Trainings of the two eyes, before Janus: the image tokenizer and the contrastive encoder (floor 5).

They run in the one loop of training/. A Janus can start from eyes of other origin instead (starting/start.py).
"""

from openjanus.eyes.contrastive import ContrastiveTraining, contrastive_training
from openjanus.eyes.tokenizer import TokenizerTraining, tokenizer_training
from openjanus.training.run import TRAININGS

TRAININGS[ContrastiveTraining] = contrastive_training
TRAININGS[TokenizerTraining] = tokenizer_training

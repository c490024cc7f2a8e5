"""Fine-tuning of pre-trained language models: texts in, labels or short answers out."""

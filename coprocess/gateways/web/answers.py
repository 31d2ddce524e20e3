"""Answers that are given in the app's place."""

from coprocess.runtime.answers import Answer, error_answer, failure_answer

__all__ = ["Answer", "error_answer", "failure_answer"]

"""An alarm becomes expert labels: rows are chosen, people answer, disagreements are decided, labels are kept."""

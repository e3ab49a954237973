"""One member: AlexNet in two halves, trained with an exact order of samples."""

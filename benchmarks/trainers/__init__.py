"""Other programs that train classifiers, as a person would start them: a job file in, predictions out.

Each script is run by the interpreter of an environment that has the program, and imports nothing of this project:
`python SCRIPT.py JOB.json`. The job names images and labels of the two sides, the images to predict, minutes and threads;
predictions are a CSV with a row per image: path, then the probability of each label.
"""

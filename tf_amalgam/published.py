"""What the paper reports (Huang et al. 2022, Tables 4 to 6), to stand beside ours."""

import io

import pandas as pd

# Hours on 4 GTX 1080 Ti, means of 8 replicates.
TABLE4 = """\
method,hours
Mean,3.86
Min-max,3.85
Choice (small),5.28
Choice (large),6.35
Random perturbation,5.27
Adversarial perturbation,10.53
RNNProp,2.39
Stronger Baselines,3.56
"""

# Evaluation stability: standard deviation of the best log validation loss; empty where
# optimization diverged (and in the last cell, which our copy of the paper lacks).
TABLE5 = """\
task,adam,rmsprop,sgd,momentum,addsign,powersign,mean,min-max,choice,large
Train,.068,.048,.048,.068,.068,.049,.064,.072,.064,.058
MLP,.044,.046,.027,.045,.022,.039,.052,.048,.046,.042
Wider,.060,.123,.046,.056,.072,.059,.071,.064,.063,.055
Deeper,.084,.075,.047,1.971,1.679,,.085,.062,.100,.087
FMNIST,.011,.017,.015,.000,.019,.017,.023,.020,.018,.021
SVHN,.099,.049,.019,.089,.037,.026,.095,.360,.064,.081
CIFAR,.049,.025,.030,.000,.031,.032,.040,.044,.031,.021
ResNet,.042,.054,,,,,.072,.052,.044,.040
Small Batch,.047,.119,.079,.068,.056,.106,.085,.078,.065,.064
MNIST-DP,.065,.055,.154,.151,.269,.229,.075,.076,.070,
"""

# Standard deviation of input noise → meta-stability, 6 replicates.
TABLE6 = """\
input_noise,meta_stability
0,.104
.01,.485
.1,1.637
"""


def table(text) -> pd.DataFrame:
    """Returns one of the tables above as a data frame."""
    return pd.read_csv(io.StringIO(text))

"""The configurations that ``python -m malis train --example`` prints."""

EXAMPLE = """\
# A training: python -m malis train THIS.toml OUT.model
# It suits the synthetic sample. A key that is left out has its default; unknown keys are errors.
# On the command line any value can be replaced: --set training.steps=3000 network.depth=5

[data]
volumes = ["data/synthetic.hdf"]  # files of one resolution, each with raw data and labels
ignore = []                       # true ids that validation leaves out, e.g. [0] for membrane
# range = [0, 4095]     # black and white where raw is not uint8; or ["0.5%", "99.5%"], percentiles
# resolution = [40.0, 4.0, 4.0]   # size of a voxel in nm, (z, y, x), for files that do not name it

[split]                 # sections of every volume, first and one past the last
train = [0, 16]         # without [split], 70 % train, 15 % validate and 15 % test
validation = [16, 20]   # choose the threshold of the segmentation; [] for none
test = [20, 24]         # nothing looks at them

[network]
type = "UNet"           # or "PlainCNN"; the other keys are the arguments of its class
depth = 4
wf = 4                  # 2^4 features on the first level
padding = true
batch_norm = true
# start = "first.model"           # begin with those of a model, for instance of cross-entropy
# offsets = [[-1, 0], [0, -1]]    # the edge of every output channel; these are the default in 2D

[loss.MalisLoss]        # the loss is the weighted sum of its sections; by default MalisLoss alone
weight = 0.3            # 0 leaves a term out
window = 32             # compute it on windows of this size, which must divide the patch
# normalise = "pass"    # and the other arguments of its class
[loss.AffinityCrossEntropy]
weight = 1.0
# [loss.MaximinLoss]
# n_pairs = 1000

[training]              # these are the defaults
patch = [128, 128]      # (y, x) for a 2D network, (z, y, x) for a 3D network
augment = true          # flips, transpositions, elastic deformation, grey values
boundary = 0            # voxels of each object that become background; 1 where labels touch
neighbours = 0          # sections on each side that a 2D network sees, too; 2 in isotropic volumes
depth = 1               # sections of a slab; with 2 or more, a 2D network predicts affinities in 3D
batch_size = 4          # patches per step, of all devices together
steps = 1500
learning_rate = 2e-3    # the highest
schedule = "cosine"     # from there to 0; or "constant"
max_gradient_norm = inf # longer gradients are shortened to this
precision = "float32"   # or "bfloat16", faster where the processor knows it
channels_last = false   # another order in memory, often faster with bfloat16
seed = 0                # of weights, patches and everything random
checkpoint_every = 500  # steps
validate_every = 500
"""

SLABS = """\
# A training on slabs: python -m malis train THIS.toml OUT.model
# A 2D network sees five sections and predicts three affinities, the third across sections, so that
# `malis segment` finds neurons in 3D. The volume is the training volume of SNEMI3D; another one of
# its kind will do. About 0.3 s a step on one core.

[data]
volumes = ["data/snemi3d_ac4.hdf"]
ignore = [0]            # the true id of what nobody labelled

[split]
train = [0, 80]
validation = [80, 100]
test = []               # another volume: AC3

[network]
depth = 4
wf = 4
padding = true
batch_norm = true
# offsets = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]    # the default with slabs: z, y, x

[loss.MalisLoss]
weight = 0.3
window = [4, 32, 32]    # (z, y, x), of a slab
[loss.AffinityCrossEntropy]
weight = 1.0

[training]
patch = [128, 128]      # (y, x), what the network gets
neighbours = 2          # sections on each side that it sees besides the one that it predicts
depth = 4               # sections of a slab
boundary = 1            # within sections; along z there is no margin
batch_size = 2          # slabs
steps = 4000
precision = "bfloat16"
channels_last = true
validate_every = 2000
"""
EXAMPLES = {"sections": EXAMPLE, "slabs": SLABS}

"""The sentences of `pyx-transformer explain`, once in English and once in Chinese.

Formulas, arrays, their names and their order live in explain.py and are the same in every
language; here is only prose, broken into lines as it is printed (at most 78 columns, a Chinese
character counting as two). English keeps to ASCII, so that it prints on any terminal.
"""

ENGLISH = {
    "formula": "Formula",
    "purpose": "What it is for",
    "projections.title": "Projections",
    "projections.purpose": """\
A word asks, is asked, and answers: its query q says what it looks for, its
key k what it has to offer, its value v what it hands over when it is chosen.
Three learned matrices make the three from one and the same row of X.""",
    "projections.input": """\
Three words, one row each. W_Q and W_V are given the numbers of X here, only to
keep the example small.""",
    "projections.call": """\
pt.ops.linear(x, weight) computes x weight^T with a weight of shape (out, in),
as PyTorch does, so it is given W_Q^T. As W_Q = W_V, Q and V come out equal.""",
    "attention.title": "Scaled dot product",
    "attention.purpose": """\
Row i of the weights A says how much word i takes from each word, and Z is
that mixture of their values. The more a key agrees with the query, the larger
their dot product and the weight. The softmax makes each row positive, sum 1.""",
    "attention.scores": "Every query against every key, then divided by sqrt({d_k}):",
    "attention.result": """\
pt.ops.scaled_dot_product_attention(Q, K, V, return_weights=True) gives Z and A
in one call. (Without return_weights it never stores A.)""",
    "attention.tutorial": """\
A tutorial in circulation prints other numbers for this example; call them Q',
K', V', A', Z'. Q' = V' is X X^T, not X W_Q. The rest follows from nothing: K'
is neither X W_K nor X W_K^T (digit for digit it is X (X + 0.2)^T, which the
method does not contain). A' is not the softmax of its own scores, beside it
below, nor of any multiple of them: the keys K' grow from word to word, so
every row would have to grow from left to right, and only the first does. And
Z' is not even A' V': that product of the tutorial's own numbers comes last
below, and the Z printed there differs from it.""",
    "scaling.title": "Why the division by sqrt(d_k)",
    "scaling.theory": """\
If the components of q and k are independent with mean 0 and variance 1, then
s = q.k is a sum of d_k terms of variance 1 each, and its variance is d_k.
Measured for each d_k on {queries} x {keys} = {products:,} dot products of normal
numbers (seed {seed}): s before the division and t = s / sqrt(d_k) after it;
w is the largest weight of a softmax over {group} keys, averaged:""",
    "scaling.result": """\
Undivided, the softmax of long vectors puts almost everything on one key. There
its derivative, w (1 - w) for that key, is close to 0 and little is learned.
Divided, variance and largest weight hardly depend on d_k any more.""",
    "heads.title": "Heads",
    "heads.purpose": """\
One set of weights looks at one thing at a time. h heads look at h different
things, each in d_k = d_model / h columns of its own, so that together they
cost about as much as one head of full width. W_O mixes what they found.""",
    "heads.input": """\
From here on d_model = {d_model}, h = {num_heads}, d_ff = {d_ff}.
E holds an embedding for each word. The weight matrices are random (seed {seed}):
this is a Transformer before training.""",
    "heads.weights": "Each head has its own opinion of who matters to whom:",
    "heads.result": """\
The heads' outputs side by side, and mixed by W_O. pt.MultiheadAttention does
all of this in one call; largest difference between the two: {difference}""",
    "positions.title": "Positions",
    "positions.purpose": """\
Attention sees a set of words, not a sequence. Adding a pattern that belongs
to the place tells it the order. Each pair of columns is a clock hand of its
own speed; k places further is the same rotation wherever one starts, so "the
word before" looks alike everywhere in a sentence.""",
    "positions.input": "pt.sinusoidal_positions({length}, {d_model}), and E with it added:",
    "positions.without": """\
Without positions, the sentence read backwards (R E) gives each word the very
row it had before:""",
    "positions.with": "With positions the same word gets another row in another place:",
    "residual.title": "Residual and norm",
    "residual.purpose": """\
The sub-layer only adds a correction to x, so signal and gradient can pass
around it through a deep stack. The norm brings every row to mean 0, variance
1; then gamma and beta (at first 1 and 0) set the scale it needs. This is the
paper's order; norm_first=True computes x + Sublayer(LayerNorm(x)) instead.""",
    "residual.sum": "x is X of part 4, the sub-layer is the attention of part 3:",
    "residual.norm": "Their sum, and the sum normalised by pt.ops.layer_norm:",
    "residual.moments": "Mean and variance of each row, before and after:",
    "feed_forward.title": "Feed-forward",
    "feed_forward.purpose": """\
Attention moves information between words; this part works on what each word
now knows, by itself: wider (d_ff columns), cut off at 0, and back to d_model.
With the paper's d_ff = 4 d_model, two thirds of an encoder layer's weights.""",
    "feed_forward.hidden": "Y is the result of part 5. The cut-off switches hidden units off:",
    "feed_forward.result": """\
The output of pt.FeedForward, and the second residual and norm, which complete
one encoder layer:""",
    "feed_forward.alone": """\
No word looks at another here: "love" given alone yields its row of FFN(Y).""",
    "stacks.title": "Encoder and decoder",
    "stacks.purpose": """\
The encoder reads the source, all words at once; N such layers, each with its
own weights, make a stack. The decoder writes the target word by word: its
attention to itself is causal (no word sees a later one), and between that and
the feed-forward it attends to M, the encoder's output.""",
    "stacks.encoder": """\
pt.TransformerEncoder with the weights of parts 3 to 6 takes X of part 4 to M of
part 6; largest difference: {difference}""",
    "stacks.decoder": """\
The decoder has so far "<s> ich mag" (T: embeddings plus positions). Its
attention to itself, head by head, is 0 above the diagonal:""",
    "stacks.cross": "Its attention to the source:",
    "stacks.causal": """\
Its output, and its output when the last word is exchanged for another (T*):
the rows before it do not change.""",
    "stacks.probabilities": """\
One more projection and softmax turn each row into probabilities for the next
word. Training will have to raise P[<s>, ich], P[ich, mag] and P[mag, NLP]:""",
    "page.title": "The Transformer, step by step",
    "page.what": """\
Seven parts, from the three projections to the whole encoder and decoder. Every
number here was computed by the library's own kernels as this page was made.
Point at a number to see all of its digits.""",
    "page.end": "Made by pyx-transformer explain --html.",
    "trained.title": "First, one at work",
    "trained.what": """\
The translator that ships with the library turns "{sentence}" into
"{translation}". It is small: {encoder_layers} encoder layers,
{decoder_layers} decoder layers, {heads} heads each, d_model = {d_model}.""",
    "beside.right": "Right, by the method above",
    "beside.circulated": "In circulation, and what it comes to",
    "scaling.variances": "Variance of the scores, before (s) and after (t) the division",
    "scaling.largest": "Largest weight of the softmax, of s and of t",
    "positions.picture": """\
The whole pattern for {length} places and d_model = {d_model}: blue is above 0, orange below.
The first columns turn fast, the last ones hardly at all:""",
    "positions.rows": "place",
    "positions.columns": "column",
}

CHINESE = {
    "formula": "公式",
    "purpose": "作用",
    "projections.title": "投影",
    "projections.purpose": """\
每个词既要提问，也要被问，还要作答：查询 q 表示它在找什么，键 k 表示它能提供
什么，值 v 是它被选中时交出的内容。三个可学习的矩阵从 X 的同一行得到这三者。""",
    "projections.input": """\
三个词，每个词一行。为了让例子足够小，这里的 W_Q 和 W_V 直接取 X 的数值。""",
    "projections.call": """\
pt.ops.linear(x, weight) 计算 x weight^T，weight 的形状是 (out, in)，与 PyTorch
一致，因此传入的是 W_Q^T。由于 W_Q = W_V，所以 Q 与 V 相同。""",
    "attention.title": "缩放点积",
    "attention.purpose": """\
权重矩阵 A 的第 i 行表示第 i 个词从每个词那里各取多少，Z 就是按此混合的值。
键与查询越一致，点积越大，权重也越大。softmax 使每一行都为正且和为 1。""",
    "attention.scores": "每个查询与每个键求点积，再除以 sqrt({d_k})：",
    "attention.result": """\
pt.ops.scaled_dot_product_attention(Q, K, V, return_weights=True) 一次调用同时
给出 Z 和 A。（不要求 return_weights 时，A 根本不会被存下来。）""",
    "attention.tutorial": """\
有一篇流传的教程对这个例子给出了另一组数，记作 Q'、K'、V'、A'、Z'。Q' = V' 其实
是 X X^T，而不是 X W_Q。其余各数则没有来由：K' 既不是 X W_K，也不是 X W_K^T
（它与 X (X + 0.2)^T 逐位相同，而方法中并没有这个乘积）；A' 不是它自己的分数的
softmax（见下，并排列出），也不是这些分数任何倍数的 softmax：K' 的键逐词增大，
所以每一行都应从左到右递增，而 A' 只有第一行如此。Z' 甚至不等于 A' V'：
用教程自己的数算出的这个乘积列在最后，教程中印出的 Z 与它不同。""",
    "scaling.title": "为什么要除以 sqrt(d_k)",
    "scaling.theory": """\
若 q 和 k 的各分量相互独立、均值为 0、方差为 1，那么 s = q.k 是 d_k 个方差为 1
的项之和，方差等于 d_k。下面对每个 d_k 用正态随机数（种子 {seed}）的
{queries} x {keys} = {products:,} 个点积实测：s 是除之前，t = s / sqrt(d_k) 是
除之后，w 是对 {group} 个键做 softmax 时最大权重的平均值：""",
    "scaling.result": """\
不做除法时，向量一长，softmax 就把几乎全部权重压在一个键上；此处的导数（对该键
为 w (1 - w)）接近 0，几乎学不到东西。做了除法，方差和最大权重几乎不再随 d_k
变化。""",
    "heads.title": "多头",
    "heads.purpose": """\
一组权重一次只能关注一件事。h 个头同时关注 h 件不同的事，各自使用自己的
d_k = d_model / h 列，因此总计算量与一个全宽的头大致相当。最后由 W_O 把各头的
结果混合起来。""",
    "heads.input": """\
从这里起 d_model = {d_model}，h = {num_heads}，d_ff = {d_ff}。
E 的每一行是一个词的嵌入向量。权重矩阵都是随机的（种子 {seed}）：这是一个尚未
训练的 Transformer。""",
    "heads.weights": "谁对谁重要，每个头都有自己的看法：",
    "heads.result": """\
各头的输出并排拼接，再经 W_O 混合。pt.MultiheadAttention 一次调用完成全部步骤；
两者的最大差值：{difference}""",
    "positions.title": "位置",
    "positions.purpose": """\
注意力看到的是词的集合，而不是序列。给每个位置加上它特有的图案，注意力才知道
词序。每两列好比一根转速不同的指针；无论从哪里出发，向后 k 个位置都是同一个
旋转，所以“前一个词”在句中任何地方看起来都一样。""",
    "positions.input": "pt.sinusoidal_positions({length}, {d_model})，以及加上它之后的 E：",
    "positions.without": "不加位置时，把句子倒过来读（R E），每个词得到的行与原来完全一样：",
    "positions.with": "加上位置后，同一个词换了位置就得到不同的行：",
    "residual.title": "残差与归一化",
    "residual.purpose": """\
子层只给 x 加上一个修正量，因此信号和梯度可以绕过它穿过很多层。归一化把每一行
变为均值 0、方差 1，再由 gamma 和 beta（初值为 1 和 0）调到所需的尺度。这是
论文的顺序；norm_first=True 时改为计算 x + Sublayer(LayerNorm(x))。""",
    "residual.sum": "x 是第 4 部分的 X，子层是第 3 部分的注意力：",
    "residual.norm": "两者之和，以及用 pt.ops.layer_norm 归一化之后：",
    "residual.moments": "每一行的均值和方差，归一化之前与之后：",
    "feed_forward.title": "前馈网络",
    "feed_forward.purpose": """\
注意力在词与词之间传递信息；这一部分让每个词独自加工它已经得到的信息：先变宽
（d_ff 列），截去负值，再回到 d_model。按论文取 d_ff = 4 d_model 时，编码器层
三分之二的权重在这里。""",
    "feed_forward.hidden": "Y 是第 5 部分的结果。截去负值相当于关闭一部分隐藏单元：",
    "feed_forward.result": """\
pt.FeedForward 的输出，以及第二次残差与归一化，至此一个编码器层就完整了：""",
    "feed_forward.alone": """\
这里没有词会去看别的词：单独输入 "love"，得到的就是 FFN(Y) 中它的那一行。""",
    "stacks.title": "编码器与解码器",
    "stacks.purpose": """\
编码器一次读入源句的全部词；N 个这样的层各有自己的权重，叠在一起。解码器逐词
写出目标句：它的自注意力是因果的（任何词都看不到后面的词），在自注意力与前馈
网络之间，它还要关注编码器的输出 M。""",
    "stacks.encoder": """\
pt.TransformerEncoder 使用第 3 至第 6 部分的权重，把第 4 部分的 X 变成第 6 部分
的 M；最大差值：{difference}""",
    "stacks.decoder": """\
解码器目前写出了 "<s> ich mag"（T 是嵌入加位置）。每个头的自注意力在对角线
以上全为 0：""",
    "stacks.cross": "它对源句的注意力：",
    "stacks.causal": """\
它的输出，以及把最后一个词换成另一个词（T*）之后的输出：前面各行不变。""",
    "stacks.probabilities": """\
再做一次投影和 softmax，每一行就成为下一个词的概率。训练要提高的正是
P[<s>, ich]、P[ich, mag] 和 P[mag, NLP]：""",
    "page.title": "逐步讲解 Transformer",
    "page.what": """\
全文共七部分，从三个投影一直到完整的编码器与解码器。这里的每一个数都是在生成
本页时由本库自己的计算内核算出的。指向一个数，可以看到它的全部位数。""",
    "page.end": "由 pyx-transformer explain --html 生成。",
    "trained.title": "先看一个正在工作的模型",
    "trained.what": """\
随库附带的翻译模型把“{sentence}”译成“{translation}”。它很小：
{encoder_layers} 个编码器层，{decoder_layers} 个解码器层，每层 {heads} 个头，
d_model = {d_model}。""",
    "beside.right": "按上述方法得到的正确结果",
    "beside.circulated": "流传的数值，以及由它们算出的结果",
    "scaling.variances": "分数的方差：除之前（s）与除之后（t）",
    "scaling.largest": "softmax 的最大权重：s 与 t",
    "positions.picture": """\
{length} 个位置、d_model = {d_model} 时的完整图案：蓝色大于 0，橙色小于 0。前面的列转得快，
后面的列几乎不动：""",
    "positions.rows": "位置",
    "positions.columns": "列",
}

SENTENCES = {"en": ENGLISH, "zh": CHINESE}

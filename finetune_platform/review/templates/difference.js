// The words by which two texts differ, in the order in which they stand.
const difference = (() => {
  const MOST_CELLS = 4e6;
  const wordsOf = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) || [];

  // Pairs ["same" | "gone" | "new", text]; longest common subsequence of words.
  const between = (from, to) => {
    const [a, b] = [wordsOf(from), wordsOf(to)];
    let start = 0;
    while (start < a.length && start < b.length && a[start] === b[start]) start++;
    let end = 0;
    while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
    const middle = common(a.slice(start, a.length - end), b.slice(start, b.length - end));
    return joined([
      ...a.slice(0, start).map((word) => ["same", word]),
      ...middle,
      ...a.slice(a.length - end).map((word) => ["same", word]),
    ]);
  };

  const common = (a, b) => {
    // Texts as long as that share little that is worth finding, and a page must not stop for it.
    if (a.length * b.length > MOST_CELLS) return [["gone", a.join("")], ["new", b.join("")]];
    const width = b.length + 1;
    const lengths = new Uint32Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        lengths[i * width + j] =
          a[i] === b[j]
            ? lengths[(i + 1) * width + j + 1] + 1
            : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    const found = [];
    let [i, j] = [0, 0];
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i] === b[j]) {
        found.push(["same", a[i]]);
        i++, j++;
      } else if (j >= b.length || (i < a.length && lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]))
        found.push(["gone", a[i++]]);
      else found.push(["new", b[j++]]);
    }
    return found;
  };

  // Neighbours of one kind as one piece; of a replaced stretch all that is gone stands before all that is new. A space
  // between two replaced words belongs to the stretch: word by word nobody could read it.
  const joined = (pairs) => {
    const found = [];
    let [gone, fresh] = ["", ""];
    const close = () => {
      if (gone) found.push(["gone", gone]);
      if (fresh) found.push(["new", fresh]);
      [gone, fresh] = ["", ""];
    };
    pairs.forEach(([kind, text], at) => {
      if (kind === "gone") gone += text;
      else if (kind === "new") fresh += text;
      else if ((gone || fresh) && !text.trim() && pairs[at + 1] && pairs[at + 1][0] !== "same") {
        gone += text;
        fresh += text;
      } else {
        close();
        if (found.length && found.at(-1)[0] === "same") found.at(-1)[1] += text;
        else found.push(["same", text]);
      }
    });
    close();
    return found;
  };

  // Shows pieces of the kinds that are wanted in an element, as text alone.
  const draw = (element, pairs, kinds) => {
    const tags = { gone: "del", new: "ins" };
    element.replaceChildren(
      ...pairs.filter(([kind]) => kinds.includes(kind)).map(([kind, text]) => {
        if (kind === "same") return document.createTextNode(text);
        const piece = document.createElement(tags[kind]);
        piece.textContent = text;
        return piece;
      }),
    );
  };

  return { between, draw };
})();

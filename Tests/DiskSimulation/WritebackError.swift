/// What Linux keeps of failed write-backs (`errseq_t`): each open descriptor is told once, and one that was
/// opened later only of what nobody was told before.
struct WritebackError: Sendable {
  private var count = 0
  private var isSeen = true

  /// What a new descriptor has heard of.
  var sample: Int { isSeen ? count : count - 1 }

  mutating func note() {
    count += 1
    isSeen = false
  }

  /// Whether there is something that `seen` says its owner was not told, which this tells.
  mutating func report(to seen: inout Int) -> Bool {
    guard seen != count else { return false }
    (seen, isSeen) = (count, true)
    return true
  }
}

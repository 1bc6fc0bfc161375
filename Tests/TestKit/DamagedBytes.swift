/// What every decoder has to survive.
extension [UInt8] {
  /// This array, once for each bit, with that bit changed.
  public var withEachBitFlipped: [[UInt8]] {
    (0..<(count * 8)).map { bit in
      var copy = self
      copy[bit / 8] ^= 1 << (bit % 8)
      return copy
    }
  }

  /// All proper prefixes, the empty one first.
  public var prefixes: [[UInt8]] { indices.map { Array(prefix($0)) } }
}

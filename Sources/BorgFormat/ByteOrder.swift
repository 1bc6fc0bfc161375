extension Span<UInt8> {
  /// The little-endian word at an offset of which the caller knows that four bytes follow.
  @inline(__always)
  package func littleEndianUInt32(at offset: Int) -> UInt32 {
    UInt32(self[offset]) | UInt32(self[offset + 1]) &<< 8 | UInt32(self[offset + 2]) &<< 16
      | UInt32(self[offset + 3]) &<< 24
  }

  /// The little-endian word at an offset of which the caller knows that eight bytes follow.
  @inline(__always)
  package func littleEndianUInt64(at offset: Int) -> UInt64 {
    UInt64(littleEndianUInt32(at: offset)) | UInt64(littleEndianUInt32(at: offset + 4)) &<< 32
  }

  /// The big-endian word at an offset of which the caller knows that eight bytes follow.
  @inline(__always)
  package func bigEndianUInt64(at offset: Int) -> UInt64 {
    littleEndianUInt64(at: offset).byteSwapped
  }
}

extension [UInt8] {
  /// Appends the four bytes of a word, least significant first.
  mutating func append(littleEndian word: UInt32) {
    var rest = word
    for _ in 0..<4 {
      append(UInt8(truncatingIfNeeded: rest))
      rest &>>= 8
    }
  }

  /// Appends the eight bytes of a word, most significant first.
  mutating func append(bigEndian word: UInt64) {
    var shift: UInt64 = 64
    while shift > 0 {
      shift -= 8
      append(UInt8(truncatingIfNeeded: word &>> shift))
    }
  }
}

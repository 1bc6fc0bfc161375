public import BorgFormat

/// The 32 bytes that a content hash results in; as text 64 lower-case hexadecimal digits.
///
/// Comparison stops at the first difference: contents and their names are no secrets. Not for passwords.
public struct ContentDigest: Hashable, Sendable {
  /// Bytes in every digest, whichever the algorithm.
  public static let size = ObjectID.size

  /// The same bytes as the value that Borg's own ids are, which has their layout and their text.
  public let id: ObjectID

  /// The digest that has an id's bytes.
  public init(_ id: ObjectID) {
    self.id = id
  }

  /// A digest of exactly 64 lower-case hex digits; `nil` for anything else.
  ///
  /// Upper case is refused, because the names that clients compare with are lower case.
  public init?(hex text: Span<UInt8>) {
    guard let id = ObjectID(hex: text) else { return nil }
    self.init(id)
  }

  /// A digest of exactly 64 lower-case hex digits; see the overload for spans.
  public init?(hex text: String) {
    guard let id = ObjectID(hex: text) else { return nil }
    self.init(id)
  }

  /// The 64 lower-case hex digits, as `X-Content-hash-…`, the answer to `hash` and names in `packs` have them.
  public var hex: String { id.hex }
}

/// Why bytes are not the integrity data of a transaction.
public enum IntegrityFault: Error, Equatable, Sendable {
  /// Not MessagePack, or without a version: what is wrong.
  case corrupt(String)
  /// A version of which nothing is known: no check then, with a warning.
  case unknownVersion(Int64)
}

/// The file `integrity.N` of Borg 1: the digests of `hints.N` and `index.N`.
///
/// A MessagePack map in the old dialect: `version` (2), `hints` and `index`, both JSON text. Source: borg 1.4.5
/// `borg/repository.py`, `write_index` and `_read_integrity`.
public struct IntegrityData: Equatable, Sendable {
  /// What `hints.N` has to be; `nil` where nothing is said of it.
  public var hints: FileDigest?
  /// What `index.N` has to be; `nil` where nothing is said of it.
  public var index: FileDigest?

  /// The digests of two files.
  public init(hints: FileDigest?, index: FileDigest?) {
    self.hints = hints
    self.index = index
  }

  /// Reads a file of at most some KiB. A text in it that is no digest is `FileDigest.unreadable`.
  public init(parsing bytes: [UInt8]) throws(IntegrityFault) {
    var version: Int64?
    var hints: FileDigest?
    var index: FileDigest?
    var reader = FieldReader(bytes)
    do {
      try reader.fields(in: bytes.span) { (reader, field, bytes) in
        switch field {
        case .version: version = try reader.int(in: bytes)
        case .hints: hints = try reader.digest(in: bytes)
        case .index: index = try reader.digest(in: bytes)
        default: try reader.skip(in: bytes)
        }
      }
    } catch {
      throw .corrupt("\(error)")
    }
    guard let version else { throw .corrupt("no version") }
    guard version == 2 else { throw .unknownVersion(version) }
    self.init(hints: hints, index: index)
  }

  /// The bytes as Borg writes them.
  public func encode() -> [UInt8] {
    let texts = [("hints", hints), ("index", index)].compactMap { name, digest in
      digest.map { (name, $0.encode()) }
    }
    var writer = MessagePackWriter(reserving: 256)
    writer.map(count: 1 + texts.count)
    writer.rawString("version")
    writer.int(2)
    for (name, text) in texts {
      writer.rawString(name)
      writer.rawBytes(text, text.indices)
    }
    return writer.bytes
  }
}

extension FieldReader {
  fileprivate mutating func digest(in bytes: Span<UInt8>) throws -> FileDigest {
    guard let range = try string(in: bytes) else { throw HintsFault.corrupt("a digest that is no text") }
    return FileDigest(parsing: bytes.extracting(range))
  }
}

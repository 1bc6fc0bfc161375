/// One thing that is wrong with an object; the cases stand in the order in which a check reports them.
public enum ObjectFinding: Hashable, CaseIterable, Sendable {
  /// Shorter than a header; nothing else can then be said about it.
  case tooSmall
  /// The object ends inside the metadata.
  case metadataSizeIncorrect
  /// The metadata is all there, and not what it was.
  case metadataChecksumMismatch
  /// The object ends inside the data, or before it.
  case dataSizeIncorrect
  /// The data is all there, and not what it was.
  case dataChecksumMismatch

  /// What Borg's log says after "Repo object … is corrupted: ".
  public var text: String {
    switch self {
    case .tooSmall: "too small."
    case .metadataSizeIncorrect: "metadata size incorrect."
    case .metadataChecksumMismatch: "metadata does not match checksum."
    case .dataSizeIncorrect: "data size incorrect."
    case .dataChecksumMismatch: "data does not match checksum."
    }
  }
}

/// Tells what is wrong with an object whose bytes arrive in pieces, in about 250 bytes of memory
/// whatever its size.
///
/// Metadata and data are judged independently: an object can have a finding for each. An object that
/// ends early has its missing bytes missing from the metadata first; data of size 0 behind it then still
/// has to match its checksum, as in the original, which compares slices. Source: borg 2.0.0b18
/// `borg/repository.py`, `Repository.check`.
public struct ObjectVerifier: Sendable {
  private enum Part: Sendable {
    /// `held` bytes of the header are in `start`.
    case header(held: Int)
    case body(ObjectHeader)
  }

  private var part = Part.header(held: 0)
  private var start = [24 of UInt8](repeating: 0)
  private var metaLeft = 0
  private var dataLeft = 0
  private var metaHash = XXH64()
  private var dataHash = XXH64()

  /// A verifier that has seen no bytes.
  public init() {}

  /// The header, once its 24 bytes are there.
  public var header: ObjectHeader? {
    switch part {
    case .header: nil
    case .body(let header): header
    }
  }

  /// Whether all bytes that the header speaks of are there: what follows cannot change the findings and
  /// need not be read.
  public var isComplete: Bool { header != nil && metaLeft == 0 && dataLeft == 0 }

  /// Adds the bytes that follow those of earlier calls.
  public mutating func update(_ bytes: Span<UInt8>) {
    var rest = bytes
    if case .header(let held) = part {
      let taken = min(ObjectHeader.size - held, rest.count)
      for index in 0..<taken { start[held + index] = rest[index] }
      guard held + taken == ObjectHeader.size, let header = try? ObjectHeader(parsing: start.span) else {
        part = .header(held: held + taken)
        return
      }
      part = .body(header)
      metaLeft = header.metaSize
      dataLeft = header.dataSize
      rest = rest.extracting(droppingFirst: taken)
    }
    let meta = rest.extracting(first: metaLeft)
    metaHash.update(meta)
    metaLeft -= meta.count
    let data = rest.extracting(droppingFirst: meta.count).extracting(first: dataLeft)
    dataHash.update(data)
    dataLeft -= data.count
  }

  /// Adds the bytes of an array, as the overload for spans does.
  public mutating func update(_ bytes: [UInt8]) {
    update(bytes.span)
  }

  /// What is wrong with the object if no bytes follow: at most two findings, metadata before data; none
  /// for a sound one.
  public func findings() -> [ObjectFinding] {
    guard let header else { return [.tooSmall] }
    var findings: [ObjectFinding] = []
    if metaLeft > 0 {
      findings.append(.metadataSizeIncorrect)
    } else if metaHash.finish() != header.metaHash {
      findings.append(.metadataChecksumMismatch)
    }
    if dataLeft > 0 {
      findings.append(.dataSizeIncorrect)
    } else if dataHash.finish() != header.dataHash {
      findings.append(.dataChecksumMismatch)
    }
    return findings
  }

  /// What is wrong with an object that is in memory as a whole.
  public static func findings(in object: Span<UInt8>) -> [ObjectFinding] {
    var verifier = Self()
    verifier.update(object)
    return verifier.findings()
  }
}

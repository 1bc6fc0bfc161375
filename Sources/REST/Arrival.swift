import BorgFormat
import ContentHash
import Storage

/// An object on its way into a store: in memory as long as it is small, then in a staged file, hashed as it comes.
///
/// A class because what is not stored has to be given up exactly once, wherever it ends. Not thread-safe.
final class Arrival {
  private let store: any PathStore
  private let path: StorePath
  private var bytes: [UInt8] = []
  private var upload: (any Upload)?
  private var hashers: ContentHashers
  private(set) var size = 0

  /// `size` is what is expected, a hint.
  init(_ path: StorePath, in store: any PathStore, size: Int, hashedBy algorithms: [HashAlgorithm]) {
    (self.path, self.store) = (path, store)
    hashers = ContentHashers(algorithms)
    if size <= Limits.inlineValue { bytes.reserveCapacity(max(size, 0)) } else { spills = true }
  }

  private var spills = false

  /// Takes the next bytes. Throws if no staged file can be made; one that cannot be written says so when it is stored.
  func append(_ block: [UInt8], _ range: Range<Int>) throws(ServeError) {
    hashers.update(block, range)
    size += range.count
    if upload == nil, spills || bytes.count + range.count > Limits.inlineValue {
      let new = try store.upload(for: path)
      upload = new
      if !bytes.isEmpty { new.append(bytes, bytes.indices) }
      bytes = []
    }
    if let upload { upload.append(block, range) } else { bytes += block[range] }
  }

  /// The digest by one of the algorithms; nil for another one.
  func digest(by algorithm: HashAlgorithm) -> ContentDigest? { hashers.digest(by: algorithm) }

  /// Hands over what has arrived: from then on it is the caller's to store or give up.
  func take() -> ObjectContent {
    defer { (bytes, upload) = ([], nil) }
    return upload.map(ObjectContent.upload) ?? ObjectContent(bytes)
  }

  func abandon() {
    upload?.abandon()
    (bytes, upload) = ([], nil)
  }
}

/// Hashes of the same bytes by several algorithms.
struct ContentHashers: ~Copyable {
  private var sha256 = ContentHasher(.sha256)
  private var blake3 = ContentHasher(.blake3)
  private let algorithms: [HashAlgorithm]

  init(_ algorithms: [HashAlgorithm]) { self.algorithms = algorithms }

  mutating func update(_ bytes: [UInt8], _ range: Range<Int>) {
    for algorithm in algorithms {
      switch algorithm {
      case .sha256: sha256.update(bytes, range)
      case .blake3: blake3.update(bytes, range)
      }
    }
  }

  func digest(by algorithm: HashAlgorithm) -> ContentDigest? {
    guard algorithms.contains(algorithm) else { return nil }
    return switch algorithm {
    case .sha256: sha256.finalize()
    case .blake3: blake3.finalize()
    }
  }
}

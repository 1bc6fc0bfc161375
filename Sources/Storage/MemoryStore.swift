public import BorgFormat
import Synchronization

/// A store in memory, for tests and as the plainest statement of what `ObjectStore` promises.
public final class MemoryStore: ObjectStore {
  public let label: String
  public let dataLevels: Int
  private let objects = Mutex<[String: [UInt8]]>([:])

  public init(label: String = "memory", dataLevels: Int = 2) {
    self.label = label
    self.dataLevels = dataLevels
  }

  private struct Stored: StoredObject {
    let bytes: [UInt8]
    var size: Int { bytes.count }

    func read(at offset: Int, into buffer: inout [UInt8]) -> Int {
      guard offset < bytes.count else { return 0 }
      let count = min(buffer.count, bytes.count - offset)
      buffer.replaceSubrange(0..<count, with: bytes[offset..<offset + count])
      return count
    }
  }

  private final class Arriving: Upload {
    let bytes = Mutex<[UInt8]>([])
    func append(_ bytes: [UInt8], _ range: Range<Int>) { self.bytes.withLock { $0 += bytes[range] } }
    func abandon() { bytes.withLock { $0 = [] } }
    func content() -> any StoredObject { Stored(bytes: bytes.withLock { $0 }) }
  }

  public func info(_ name: StoreName) -> Int? { objects.withLock { $0[nested(name)]?.count } }

  public func open(_ name: StoreName) -> (any StoredObject)? {
    objects.withLock { $0[nested(name)] }.map { Stored(bytes: $0) }
  }

  public func upload() -> any Upload { Arriving() }

  public func store(_ name: StoreName, _ content: ObjectContent, keepsOther: Bool) throws(ServeError) {
    if name.namespace == .data, name.isDeleted {
      throw .argumentValue("an object cannot be stored as deleted")
    }
    let value: [UInt8]
    switch content {
    case .bytes(let bytes, let range): value = Array(bytes[range])
    case .upload(let upload as Arriving): value = upload.bytes.withLock { $0 }
    case .upload: throw .unsupported("This upload belongs to another store.")
    }
    objects.withLock { objects in
      if keepsOther, name.namespace == .data, objects[nested(name)] != nil { return }
      objects[nested(name)] = value
    }
  }

  public func adopt(_ name: StoreName) -> Bool { info(name) != nil }

  public func delete(_ name: StoreName) -> Bool {
    objects.withLock { $0.removeValue(forKey: nested(name)) != nil }
  }

  public func move(_ name: StoreName, to newName: StoreName) -> Bool {
    objects.withLock { objects in
      guard let value = objects.removeValue(forKey: nested(name)) else { return false }
      objects[nested(newName)] = value
      return true
    }
  }

  public func list(_ directory: String, deleted: Bool) -> [ListedObject]? {
    let prefix = directory.isEmpty ? "" : directory + "/"
    let all = objects.withLock { $0.filter { $0.key.hasPrefix(prefix) } }
    guard !all.isEmpty else { return nil }
    let suffix = StoreName.deletedSuffix
    return all.filter { $0.key.hasSuffix(suffix) == deleted }
      .sorted { Self.components($0.key).lexicographicallyPrecedes(Self.components($1.key)) }
      .map { path, value in
        let base = path.split(separator: "/").last.map(String.init) ?? path
        return ListedObject(name: deleted ? String(base.dropLast(suffix.count)) : base, size: value.count)
      }
  }

  public func objects(after marker: ObjectID?, limit: Int, foreign: (String) -> Void) -> [ListedID]? {
    guard let all = list(Namespace.data.rawValue, deleted: false) else { return nil }
    let known = all.compactMap { entry in ObjectID(hex: entry.name).map { ListedID(id: $0, size: entry.size) }
    }
    let later = known.filter { entry in marker.map { entry.id > $0 } ?? true }
    return Array(later.prefix(limit))
  }

  public func barrier(durable: Bool) {}
  public func tick() {}
  public func availableSpace() -> UInt64? { nil }
  public func close() {}

  public func destroy() -> [String] {
    objects.withLock { $0 = [:] }
    return []
  }

  /// What listings are ordered by: the names on the way, which are ASCII.
  private static func components(_ path: String) -> [Substring] { path.split(separator: "/") }

  private func nested(_ name: StoreName) -> String { name.nested(dataLevels: dataLevels) }
}

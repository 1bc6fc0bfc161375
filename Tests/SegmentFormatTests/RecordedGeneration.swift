import BorgFormat
import Testing

/// The three files that belong to a transaction of a recorded repository.
struct RecordedGeneration: Sendable, CustomStringConvertible {
  let description: String
  /// File names, and what was recorded of each.
  let files: [String: String]

  static let all: [RecordedGeneration] = {
    let rows = Recorded.rows(Recorded.generations)
    var names: [String] = []
    for row in rows where !names.contains(row[0]) { names.append(row[0]) }
    return names.map { name in
      let own = rows.filter { $0[0] == name }
      return RecordedGeneration(
        description: name, files: Dictionary(uniqueKeysWithValues: own.map { ($0[1], $0[2]) }))
    }
  }()

  func name(_ kind: String) -> String? { files.keys.first { $0.hasPrefix(kind) } }

  func file(_ kind: String) throws -> [UInt8] {
    try [UInt8](recorded: try #require(name(kind).flatMap { files[$0] }))
  }

  /// The whole index; only the header and the buckets that are not empty were recorded, of large ones nothing.
  func index() throws -> [UInt8]? {
    guard let name = name("index."), let column = files[name] else { return nil }
    let parts = column.split(separator: ";")
    var bytes = try [UInt8](recorded: parts[0])
    let buckets = Int(bytes[12]) | Int(bytes[13]) << 8
    let empty = [UInt8](repeating: 0, count: 32) + [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]
    var used: [Int: [UInt8]] = [:]
    for part in parts.dropFirst() {
      let pair = part.split(separator: ":")
      used[try #require(Int(pair[0]))] = try [UInt8](recorded: pair[1])
    }
    for bucket in 0..<buckets { bytes += used[bucket] ?? empty }
    return bytes
  }
}

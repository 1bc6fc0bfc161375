import BorgFormat
import RPC
import Testing

/// An answer that differs from borg 2.0.0b18's on purpose.
private struct Difference {
  let errorClass: String
  let arguments: [Value]?
  let why: String

  init(_ errorClass: String, _ arguments: [Value]?, _ why: String) {
    (self.errorClass, self.arguments, self.why) = (errorClass, arguments, why)
  }
}

private let differences: [String: Difference] = [
  "objects/put_without_data": .init(
    "TypeError", ["put() missing 1 required argument: 'data'"], "Python's own words"),
  "objects/get_without_id": .init(
    "TypeError", ["get() missing 1 required argument: 'id'"], "Python's own words"),
  "store/load_without_a_name": .init(
    "TypeError", ["store_load() missing 1 required argument: 'name'"], "Python's own words"),
  "objects/__len__": .init(
    "Error", ["__len__ is not supported for this repository."], "the original fails to find what it allows"),
  "check/check,_partial,_with_repair": .init(
    "ValueError", ["a partial check cannot repair"], "an AssertionError without a word tells nobody anything"),
  "store/load_with_a_blank": .init(
    "ValueError", nil, "one rule for blanks, backslashes, control characters and non-ASCII"),
  "store/list_with_a_blank": .init("ValueError", nil, "as above"),
  "store/load_with_a_backslash": .init("ValueError", nil, "as above"),
  "store/list_with_a_backslash": .init("ValueError", nil, "as above"),
  "store/load_with_more_than_ASCII": .init("ValueError", nil, "as above"),
  "store/list_with_more_than_ASCII": .init("ValueError", nil, "as above"),
  "exceptions/inject_divide": .init(
    "ZeroDivisionError", nil, "Python's words for it change with its version"),
  "exceptions/close_without_the_lock": .init(
    "NotLocked",
    [.string(Array(repeating: 0x40, count: TemporaryDirectory.pathLength) + Array("/repository".utf8))],
    "the path alone, instead of how the original's store describes itself"),
]

/// Replies that say the same in other bytes.
private let sameMeaning: [String: String] = [
  "framing/id_is_wider_than_needed": "ids are echoed as they came; the original decodes and encodes them"
]

/// The original's spellings of a repository's place, where ours is the path as the client gave it.
private func placeAlone(_ argument: Value) -> Value {
  guard let text = argument.text else { return argument }
  for (prefix, suffix) in [("proto='file', user=None, host=None, port=None, path='", "'"), ("file://", "")]
  where text.hasPrefix(prefix) && text.hasSuffix(suffix) {
    return .text(String(text.dropFirst(prefix.count).dropLast(suffix.count)))
  }
  return argument
}

/// One request of a scenario and what the original made of it.
private struct Step {
  let name: String
  let request: [UInt8]
  let isError: Bool
  let outcome: [UInt8]

  init(_ line: Substring) throws {
    let columns = line.split(separator: " ").map(String.init)
    (name, isError) = (columns[0], columns[2] == "error")
    request = try #require(Hex.decode(columns[1]))
    outcome = try #require(Hex.decode(columns[3]))
  }

  var scenario: String { String(name.prefix { $0 != "/" }) }

  static let all: Result<[Step], any Error> = Result {
    try Recorded.answers.split(separator: "\n").map(Step.init)
  }
}

extension [UInt8] {
  fileprivate func replacing(_ old: [UInt8], with new: [UInt8]) -> [UInt8] {
    var (result, index) = ([UInt8](), 0)
    while index < count {
      if self[index] == old[0], self[index...].starts(with: old) {
        result += new
        index += old.count
      } else {
        result.append(self[index])
        index += 1
      }
    }
    return result
  }
}

struct RecordedAnswersTests {
  private static let mask = [UInt8](repeating: 0x40, count: TemporaryDirectory.pathLength)

  @Test(arguments: ["before_open", "opening", "objects", "store", "exceptions", "check", "framing"])
  func `the answers are those of borg 2.0.0b18`(scenario: String) throws {
    let steps = try Step.all.get().filter { $0.scenario == scenario }
    try #require(!steps.isEmpty)
    let place = try Place()
    let client = try Client()
    var id: [UInt8]?
    for step in steps {
      try #require(client.send(step.request.replacing(Self.mask, with: place.root.path)))
      let reply = try client.reply()
      if let opened = reply.outcome.result?.bytes, opened.count == 32, id == nil,
        step.name.contains("/open") || step.name.contains("/create")
      {
        id = opened
      }
      var bytes = reply.bytes.replacing(place.root.path, with: Self.mask)
      if let id {
        bytes = bytes.replacing(id, with: [UInt8](repeating: 0, count: 32))
          .replacing(Array(Hex.string(id).utf8), with: [UInt8](repeating: 0x30, count: 64))
      }
      guard step.isError else {
        if sameMeaning[step.name] != nil {
          var (here, there) = (0, 0)
          let values = (try Value(bytes, at: &here), try Value(step.outcome, at: &there))
          #expect(values.0 == values.1, "\(step.name)")
          continue
        }
        #expect(bytes == step.outcome, "\(step.name): \(reply.outcome)")
        continue
      }
      compare(bytes, with: step)
    }
    #expect(client.hangUp() == .closed)
    #expect(place.locks == 0)
    #expect(place.leftovers() == [])
  }

  private func compare(_ bytes: [UInt8], with step: Step) {
    var (here, there) = (0, 0)
    guard let reply = try? Value(bytes, at: &here), let recorded = try? Value(step.outcome, at: &there).array,
      let errorClass = reply["exception_class"]?.text, let arguments = reply["exception_args"]?.array
    else {
      Issue.record("\(step.name) is no error here")
      return
    }
    if let difference = differences[step.name] {
      #expect(errorClass == difference.errorClass, "\(step.name)")
      if let expected = difference.arguments { #expect(arguments == expected, "\(step.name)") }
    } else {
      #expect([.text(errorClass)] + arguments == recorded.map(placeAlone), "\(step.name)")
    }
  }

  @Test func `every difference is one of a request that is played`() throws {
    let names = Set(try Step.all.get().map(\.name))
    #expect((Array(differences.keys) + sameMeaning.keys).filter { !names.contains($0) } == [])
  }
}

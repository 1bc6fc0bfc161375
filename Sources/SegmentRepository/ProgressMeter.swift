import BorgFormat

/// Reports how far an operation has come, each time that another step of the whole is done.
///
/// Source: borg 1.4.5 `src/borg/helpers/progress.py`, `ProgressIndicatorPercent`.
struct ProgressMeter {
  private let total: Int
  private let step: Double
  private let messageID: String
  private let operation: Int
  private let reporter: any Reporter
  private let text: String
  private let digits: Int
  private var next = 0.0
  private var counter = 0

  /// `step` is in per cent, `digits` how many the percentage has behind its point.
  init(
    total: Int, step: Double, messageID: String, operation: Int, reporter: any Reporter, _ text: String,
    digits: Int
  ) {
    (self.total, self.step, self.messageID, self.operation) = (total, step, messageID, operation)
    (self.reporter, self.text, self.digits) = (reporter, text, digits)
  }

  /// Says that `current` of the whole are done; without it, one more.
  mutating func show(_ current: Int? = nil) {
    if let current { counter = current }
    let percent = total == 0 ? 100 : Double(counter) * 100 / Double(total)
    counter += 1
    guard percent >= next else { return }
    next += step
    reporter.progress(
      Progress(
        operation: operation, messageID: messageID, message: "\(text) \(formatted(percent))%",
        current: counter, total: total, isFinished: false))
  }

  func finish() {
    reporter.progress(
      Progress(
        operation: operation, messageID: messageID, message: "", current: total, total: total,
        isFinished: true))
  }

  /// Right-aligned in three characters, as `%3.0f` and `%3.1f` have it.
  private func formatted(_ percent: Double) -> String {
    let tenths = FileSize.rounded(percent, times: digits == 0 ? 1 : 10)
    let number = digits == 0 ? "\(tenths)" : "\(tenths / 10).\(tenths % 10)"
    return String(repeating: " ", count: max(0, 3 - number.utf8.count)) + number
  }
}

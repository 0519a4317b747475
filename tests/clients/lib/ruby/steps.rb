# frozen_string_literal: true

# Prints steps as tests/clients/README.md asks, and reads those of lib/sql/steps.sql. Knows no step by name.
module Steps
  REFUSED = {} # step => true

  # SQLSTATE of an error or of the driver's error behind it.
  def self.sqlstate(error)
    while error
      result = error.respond_to?(:result) ? error.result : nil
      return result.error_field(PG::Result::PG_DIAG_SQLSTATE) if result.respond_to?(:error_field)
      error = error.cause
    end
  end

  def self.words(error)
    error = error.cause while error.cause
    error.message.lines.first.to_s.sub(/\A(PG::\w+: )?ERROR: +/, '')
  end

  def self.print(name, result)
    $stdout.puts "#{name}\t#{result.to_s.gsub(/\s+/, ' ').strip}"
    $stdout.flush
  end

  # Runs a step, unless one that it needs was refused.
  def self.step(name, after = nil)
    if REFUSED[after]
      REFUSED[name] = true
      return print(name, "SKIPPED after #{after}")
    end
    print(name, yield)
  rescue StandardError => error
    REFUSED[name] = true
    code = sqlstate(error)
    return print(name, "REFUSED 0A000 #{words(error)}") if code == '0A000'
    warn error.full_message(highlight: false)
    print(name, "ERROR #{code || '-----'} #{error.class} #{words(error)}")
  end

  # The code of a failure that the step expects; a refusal stays a refusal.
  def self.expected
    yield
    'no failure'
  rescue StandardError => error
    raise if sqlstate(error) == '0A000'
    [error.class, sqlstate(error)].compact.join(' ')
  end

  Statement = Struct.new(:text, :params, :save)

  # The statements of lib/sql/steps.sql by step.
  def self.statements
    steps = Hash.new { |hash, key| hash[key] = [] }
    name = nil
    statement = Statement.new(+'', [], nil)
    File.foreach(File.join(__dir__, '..', 'sql', 'steps.sql'), chomp: true) do |line|
      case line
      when /\A-- step: (.*)/ then name = $1
      when /\A-- params: (.*)/ then statement.params = $1.split(', ')
      when /\A-- save: (.*)/ then statement.save = $1
      when '', /\A--/ then next
      else
        statement.text << line.delete_suffix(';') << "\n"
        if line.end_with?(';')
          steps[name] << statement
          statement = Statement.new(+'', [], nil)
        end
      end
    end
    steps
  end
end

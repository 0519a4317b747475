class EnumValue < ActiveRecord::Migration[6.1]
  disable_ddl_transaction!

  def up
    execute "ALTER TYPE order_status ADD VALUE 'sent'"
  end
end

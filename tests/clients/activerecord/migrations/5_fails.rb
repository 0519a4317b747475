class Fails < ActiveRecord::Migration[6.1]
  def up
    create_table :half_done
    add_column :no_such_table, :x, :integer
  end
end

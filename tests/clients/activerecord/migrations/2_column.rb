class Column < ActiveRecord::Migration[6.1]
  def change
    add_column :users, :points, :integer, null: false, default: 7
  end
end
